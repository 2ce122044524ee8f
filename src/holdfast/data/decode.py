"""From the bytes of an image file to pixels, through PIL, with the formats that are safe to open."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from holdfast.data.size import Size, cropped, unequal
from holdfast.foundation.errors import BadData, BadFile, HoldfastError

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # not all of PIL's: its EPS reader starts Ghostscript
GREY = ("1", "L", "LA", "La")
DEEP = ("I", "F")


@dataclass(frozen=True)
class Look:
    """What an image file's head says."""

    height: int
    width: int
    channels: int


def look(given: bytes | Path, *, where: str) -> Look:
    """Height, width and channels (1 grey, 3 colour), without decoding the pixels. Raises as `decode` does."""
    with _opened(given, where) as image:
        return Look(image.height, image.width, 1 if image.mode in GREY else 3)


def common(heads: Iterable[tuple[str, Look]], size: Size | None) -> tuple[int, int, int]:
    """(C, H, W) of images by some of their heads, each with its name: colour if one is; ``size``, or that of all.

    Raises:
        BadData: they differ in size, and ``size`` is left out.
    """
    (first, head), *others = seen = list(heads)
    channels = max(one.channels for _, one in seen)
    if size is not None:
        return channels, *size
    for name, other in others:
        if (other.height, other.width) != (head.height, head.width):
            raise unequal(first, (head.height, head.width), name, (other.height, other.width))
    return channels, head.height, head.width


def decoded(given: bytes, shape: tuple[int, int, int], *, where: str, size: Size | None) -> np.ndarray:
    """`decode` of an image of a set whose images are of this shape (C, H, W), by the first of them.

    Raises:
        BadData: it is of another size; and as `decode` does.
    """
    image = decode(given, channels=shape[0], where=where, size=size)
    if image.shape != shape:
        raise unequal("the first image", shape[1:], where, image.shape[1:])
    return image


def decode(given: bytes | Path, *, channels: int, where: str, size: Size | None = None) -> np.ndarray:
    """The pixels (channels,H,W) uint8 of an encoded image. An alpha channel is dropped, EXIF rotation not applied.

    Args:
        given: the file's bytes, or its path.
        channels: 1 or 3; a grey image becomes three equal channels where 3 are wanted.
        where: what the errors call the image.
        size: (H, W) to which `holdfast.data.size.cropped` brings it; as it is where left out.

    Raises:
        BadFile: not an image of an accepted format, damaged, truncated, or a decompression bomb.
        BadData: more than 8 bits a channel, a colour image where one channel is wanted, or one too narrow to crop.
    """
    with _opened(given, where) as image:
        if channels == 1 and image.mode not in GREY:
            raise BadData(
                f"{where} is a colour image ({image.mode}) among grey ones", hint="convert it to grey, or all to RGB"
            )
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the straight way warns, and takes the transparent colour's place for it
        pixels = image.convert("L" if channels == 1 else "RGB")
        array = np.array(pixels if size is None else cropped(pixels, size, where=where), dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


@contextmanager
def _opened(given: bytes | Path, where: str) -> Iterator[Image]:
    from PIL import Image

    # PIL only warns of bombs of some size. Warnings made errors for a moment would be so in all threads, and might stay so.
    most = Image.MAX_IMAGE_PIXELS or float("inf")
    try:
        with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given, formats=FORMATS) as image:
            if image.width * image.height > most:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            if image.mode.startswith(DEEP):
                raise BadData(
                    f"{where} has more than 8 bits a channel (mode {image.mode})",
                    hint="convert it to 8 bits, or give float arrays in [0, 1]",
                )
            yield image
    except HoldfastError:
        raise
    except FileNotFoundError:
        raise BadFile(f"{where} does not exist", hint="was it moved since the folder was read?") from None
    except PermissionError:
        raise BadFile(f"{where} may not be read", hint="give your user read permission on it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadFile(
            f"{where} claims too many pixels to be safe: {error}", hint="leave it out, or shrink it"
        ) from None
    except Image.UnidentifiedImageError:
        raise BadFile(f"{where} is no image that can be read", hint=f"give one of: {', '.join(FORMATS)}") from None
    except Exception as error:  # PIL's readers raise whatever the damaged bytes lead them to
        raise BadFile(
            f"{where} is damaged ({type(error).__name__}: {error})", hint="it is probably truncated; fetch it again"
        ) from error
