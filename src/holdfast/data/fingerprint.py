"""Short names for contents: the first 16 hexadecimal digits of a SHA-256.

Up to `WHOLE` bytes every byte counts, so that one changed pixel changes the fingerprint. Above it, hashing would cost
more than it is worth: the size and `BLOCKS` evenly spaced blocks count (the first and the last included), which tells
files apart but does not notice every single edit. Neither dates nor absolute paths count, so that copies agree.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdfast.data.reading import reading

WHOLE = 64 * 2**20
BLOCK = 64 * 2**10
BLOCKS = 256


def digest(*parts: str) -> str:
    """The fingerprint of some texts; their lengths count too, so that ("ab", "c") and ("a", "bc") differ."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")  # file names need not be valid text
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


def of_array(array: np.ndarray) -> str:
    """The fingerprint of an array's type, shape and bytes."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
    total = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for start, stop in _spans(flat.size):
        total.update(flat[start:stop].data)
    return total.hexdigest()[:16]


def of_file(path: Path) -> str:
    """The fingerprint of a file's size and bytes. Raises BadFile where it cannot be read."""
    with reading(path, what="a file"), path.open("rb") as file:
        size = path.stat().st_size
        total = hashlib.sha256(str(size).encode())
        for start, stop in _spans(size):
            file.seek(start)
            total.update(file.read(stop - start))
    return total.hexdigest()[:16]


def of_files(root: Path, names: Sequence[str]) -> str:
    """The fingerprint of files below ``root``: all names and sizes, and the contents of all or of some.

    All where they make up to `WHOLE` bytes together; else `BLOCKS` evenly spaced ones, or up to twice as many.
    """
    with reading(root, what="a folder"):
        # As text: making so many paths takes as long as asking for the sizes.
        sizes = [os.stat(f"{root}/{name}").st_size for name in names]  # noqa: PTH116
    step = 1 if sum(sizes) <= WHOLE else max(1, len(names) // BLOCKS)
    listing = [f"{name}:{size}" for name, size in zip(names, sizes)]
    return digest(*listing, *(of_file(root / name) for name in names[::step]))


def _spans(size: int) -> list[tuple[int, int]]:
    """The byte ranges that count."""
    if size <= WHOLE:
        return [(start, min(size, start + 2**20)) for start in range(0, size, 2**20)]
    return [(start, start + BLOCK) for start in (int(x) for x in np.linspace(0, size - BLOCK, BLOCKS))]
