"""A map-style data set, as torch knows them, read one item after another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.data.arrays import as_array
from holdfast.data.channels import channels_first
from holdfast.data.check import check_images
from holdfast.data.fingerprint import BLOCKS, digest, of_array
from holdfast.data.source import Batch, locate, numbered
from holdfast.foundation.errors import BadData, HoldfastError


@dataclass(frozen=True, eq=False)
class Items:
    """A source over a data set's items. Build it with `from_dataset`."""

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    ids: np.ndarray = field(repr=False)
    dataset: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        if len(places) == 0:
            return Batch(np.zeros((0, *self.shape), np.uint8), np.zeros(0, np.int64))
        images, labels = [], []
        for place in places:
            image, label = _item(self.dataset, int(place), self.name)
            if image.shape != self.shape:
                raise BadData(
                    f"item {place} of {self.name} has shape {image.shape}, the first one {self.shape}",
                    hint="resize the images to one size in the data set's transform",
                )
            if images and image.dtype != images[0].dtype:
                raise BadData(
                    f"item {place} of {self.name} is {image.dtype}, one before it {images[0].dtype}",
                    hint="return uint8 in 0..255 everywhere, or floats in [0, 1] everywhere",
                )
            images.append(image)
            labels.append(label)
        batch = Batch(np.stack(images), np.stack(labels))
        check_images(*batch, where=self.name, ids=places, num_classes=len(self.class_names))
        return Batch(batch.images, batch.labels.astype(np.int64, copy=False))

    def fingerprint(self) -> str:
        """Counts the length and up to `BLOCKS` evenly spaced items, because reading an item may be slow."""
        some = self.take(np.unique(np.linspace(0, len(self) - 1, BLOCKS).astype(np.int64)))
        return digest(str(len(self)), of_array(some.images), of_array(some.labels))


def from_dataset(dataset: Any) -> Items:
    """A source over ``dataset``: ``len(dataset)``, ``dataset[i] -> (image, label)``.

    An image is a PIL image, or an array or tensor (C,H,W), (H,W,C) or (H,W), uint8 or floating in [0, 1]. Class names
    are taken from the data set's ``classes``, as torchvision's have them; where there is none, the labels are counted:
    from ``targets``, or in one pass over all items.

    Raises:
        BadData: items of another form, or an item that comes out different when it is read again.
    """
    name, size = type(dataset).__name__, len(dataset)
    if size == 0:
        raise BadData(f"{name} is empty", hint="give at least one item")
    for place in sorted({0, size // 2, size - 1}):
        first, again = (_item(dataset, place, name)[0] for _ in range(2))
        if not np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
            raise BadData(
                f"item {place} of {name} is another image each time it is read",
                hint="remove random transforms (crops, flips) from the data set that is evaluated",
            )
    image, _ = _item(dataset, 0, name)
    _, channels, height, width = image[None].shape
    return Items(name, _class_names(dataset, name), (channels, height, width), np.arange(size, dtype=np.int64), dataset)


def _class_names(dataset: Any, name: str) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sequence) and len(classes):
        return tuple(str(one) for one in classes)
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = np.stack([_item(dataset, place, name)[1] for place in range(len(dataset))])
    labels = as_array(targets, f"the labels of {name}")
    check_images(np.zeros((len(dataset), 1, 1, 1), np.uint8), labels, where=name)
    return numbered(int(labels.max()) + 1)


def _item(dataset: Any, place: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An item's image (C,H,W) and its label as it came, both as arrays."""
    where = f"item {place} of {name}"
    try:
        given = dataset[place]
    except HoldfastError:
        raise
    except Exception as error:  # a foreign class: whatever it raises, the user is told at which item
        raise BadData(
            f"{where} cannot be read ({type(error).__name__}: {error})",
            hint="repair the data set, or leave that item out",
        ) from error
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        found = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, (tuple, list)) else "")
        raise BadData(
            f"{where} is {found}; (image, label) is needed", hint="wrap the data set so that it returns such pairs"
        )
    image, label = given
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    number = as_array(label, f"the label of {where}")
    if number.ndim:
        raise BadData(
            f"the label of {where} has shape {number.shape}; one number is needed", hint="one-hot: int(label.argmax())"
        )
    return channels_first(as_array(image, where)[None], where=where)[0], number
