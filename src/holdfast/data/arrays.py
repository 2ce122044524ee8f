"""Images and labels that are in memory already."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.data.check import check_images
from holdfast.data.fingerprint import digest, of_array
from holdfast.data.source import Batch, locate, numbered
from holdfast.foundation.errors import BadData


@dataclass(frozen=True, eq=False)
class Arrays:
    """A source that holds its samples. Build it with `from_pair`, which checks them."""

    name: str
    class_names: tuple[str, ...]
    ids: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        return Batch(self.images[places], self.labels[places])

    def fingerprint(self) -> str:
        return digest(of_array(self.ids), of_array(self.images), of_array(self.labels))


def from_pair(
    images: Any,
    labels: Any,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    ids: np.ndarray | None = None,
) -> Arrays:
    """A source of arrays, tensors or nested lists.

    Args:
        images: (n,C,H,W) uint8, or floating in [0, 1]; float32 and float64 are kept, other widths become float32.
        labels: (n,) integers from 0. No copy is made where the types fit, so leave both unchanged afterwards.
        name: what reports and errors call the data.
        class_names: one per class; "0", "1", ... where left out.
        ids: (n,) ascending integers; 0 to n-1 where left out.

    Raises:
        BadData: images or labels that cannot be evaluated; see `holdfast.data.check`.
    """
    pixels, numbers = as_array(images, f"the images of {name}"), as_array(labels, f"the labels of {name}")
    num_classes = None if class_names is None else len(class_names)
    check_images(pixels, numbers, where=name, ids=ids, num_classes=num_classes)
    numbers = numbers.astype(np.int64, copy=False)
    return Arrays(
        name=name,
        class_names=numbered(int(numbers.max()) + 1) if class_names is None else tuple(class_names),
        ids=np.arange(len(pixels), dtype=np.int64) if ids is None else ids,
        images=pixels,
        labels=numbers,
    )


def as_array(given: Any, what: str) -> np.ndarray:
    """A tensor, an array, a number or nested lists as an array; half-precision floats become float32."""
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported torch already
    try:
        if torch is not None and isinstance(given, torch.Tensor):
            given = given.detach().cpu()
            given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadData(f"{what} are no array ({error})", hint="give a NumPy array or a tensor of one shape") from None
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        return array.astype(np.float32)
    return array
