"""Images of different sizes made alike, as ImageNet is evaluated: the shorter side resized, the centre cut out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.data.fingerprint import digest
from holdfast.foundation.errors import BadData, BadValue

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Height and width in pixels, after the cut."""

SHARE = 0.875
"""The side of the cut is that share of the resized image's shorter side: 224 of 256."""

LARGEST = 4096


def parsed(given: Any) -> Size:
    """224, "224" and "224x160" or (224, 160), which is height by width, as (height, width).

    Raises:
        BadValue: something else, or a side that is not within 1 and `LARGEST`.
    """
    text = "x".join(map(str, given)) if isinstance(given, (tuple, list)) else str(given)
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text.strip(), re.ASCII)
    sides = [int(side) for side in found.groups(default=found[1])] if found else []
    if not sides or not all(1 <= side <= LARGEST for side in sides):
        raise BadValue(
            f"size is {given!r}; one side in pixels, or HEIGHTxWIDTH, of at most {LARGEST:,} each is needed",
            hint="give the size that the model takes, for example 224",
        )
    return sides[0], sides[1]


def cropped(image: Image, size: Size, *, where: str) -> Image:
    """The image resized, bilinear and antialiased, until it just covers ``size`` / `SHARE`, then its centre of ``size``.

    It keeps its proportions: for a square the shorter side becomes round(side / 0.875), the longer one follows, rounded
    down. Smaller images are enlarged. Every image goes this way, one of that very size as well.

    Source: the usual evaluation on ImageNet; the rounding is that of torchvision's ``Resize`` and ``CenterCrop``.

    Raises:
        BadData: so narrow that the resized image would be too large.
    """
    from PIL import Image as images

    high, wide = (round(side / SHARE) for side in size)
    if image.width * high >= image.height * wide:
        to = image.width * high // image.height, high
    else:
        to = wide, image.height * wide // image.width
    if to[0] * to[1] > (images.MAX_IMAGE_PIXELS or float("inf")):
        raise BadData(
            f"{where} is {image.height}x{image.width} (height, width), and would be {to[1]}x{to[0]} before its centre is "
            "cut out",
            hint="leave it out, or cut it yourself",
        )
    left, top = round((to[0] - size[1]) / 2), round((to[1] - size[0]) / 2)
    resized = image if to == image.size else image.resize(to, images.Resampling.BILINEAR)
    return resized.crop((left, top, left + size[1], top + size[0]))


def marked(fingerprint: str, size: Size | None) -> str:
    """The fingerprint of images that are made alike; as it is where they are taken as they are."""
    return fingerprint if size is None else digest(fingerprint, f"{SHARE:g}", f"{size[0]}x{size[1]}")


def unequal(first: str, size: Sequence[int], second: str, other: Sequence[int]) -> BadData:
    """The error that two images (height, width) of one set differ in size."""
    return BadData(
        f"the images differ in size (height, width): {first} has {tuple(size)}, {second} has {tuple(other)}",
        hint="add --size 224, or what the model takes (size=224 in Python): the shorter side is resized, the centre cut out",
    )


def refuse(size: Size | None, where: str) -> None:
    """Refuses a size for images that are not decoded here. Raises BadValue."""
    if size is not None:
        raise BadValue(
            f"size is {size[0]}x{size[1]}, and the images of {where} are read as they are",
            hint="leave it out: it is for image files, in folders, Parquet, tar shards or hf:",
        )
