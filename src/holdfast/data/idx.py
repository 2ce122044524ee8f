"""The IDX format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.reading import first_bytes, reading
from holdfast.data.size import Size, refuse
from holdfast.data.source import pick_split
from holdfast.foundation.errors import BadFile, BadValue
from holdfast.foundation.registry import register

IMAGES, LABELS = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"
MAX_RATIO = 1032  # the most that deflate can pack, so that a head that claims more is false


@register
class Idx:
    """MNIST's IDX files, plain or gzipped: a folder of them, or one file of images with its labels beside it.

    The labels file has the name of the images file with "images" replaced by "labels" (and idx3 by idx1).
    """

    needs_path: ClassVar[bool] = True
    looks_for: ClassVar[str] = "IDX files as MNIST has them (train-images-idx3-ubyte, t10k-images-idx3-ubyte; .gz too)"

    @staticmethod
    def recognises(path: Path) -> bool:
        if path.is_dir():
            return bool(_image_files(path))
        if not path.is_file() or _magic(path) not in (IMAGES, LABELS):
            return False
        # A record of CIFAR's binary version may begin with the same four bytes; there the head must fit the size, too.
        return path.suffix != ".bin" or _expected(path) == path.stat().st_size

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> Arrays:
        """The test part (t10k) by default. Raises BadFile for files that are truncated, too long, or without labels."""
        if path is None:
            raise BadValue("idx needs a path", hint="give the folder of the IDX files")
        refuse(size, str(path))
        name = path.name
        if path.is_dir():
            parts = _image_files(path)
            part = pick_split(parts, split, where=str(path))
            path, name = parts[part], f"{name}:{part}"
        elif split is not None:
            raise BadValue(f"{path} is one file and has no split {split!r}", hint="give its folder, or no split")
        elif _magic(path) == LABELS:
            raise BadFile(f"{path} holds labels", hint="give the file of the images; its labels are found beside it")
        return from_pair(_read(path, IMAGES)[:, None], _read(_labels_of(path), LABELS), name=name)


def _image_files(folder: Path) -> dict[str, Path]:
    """Part -> its images file. Only files whose names say so are opened: a folder may hold thousands of others."""
    with reading(folder, what="a folder"):
        likely = [file for file in sorted(folder.iterdir()) if "images" in file.name and file.is_file()]
    parts: dict[str, Path] = {}
    for file in likely:
        if _magic(file) == IMAGES:
            prefix = file.name.partition("images")[0].rstrip("-_.") or "all"
            parts.setdefault("test" if prefix == "t10k" else prefix, file)
    return parts


def _labels_of(path: Path) -> Path:
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == path.name.removesuffix(".gz"):
        raise BadFile(f"the labels of {path} cannot be found", hint="call the files NAME-images and NAME-labels")
    for candidate in (path.with_name(name), path.with_name(f"{name}.gz")):
        if candidate.is_file():
            return candidate
    raise BadFile(f"{path} has no labels beside it", hint=f"put {name} or {name}.gz into {path.parent}")


def _packed(path: Path) -> bool:
    return first_bytes(path, 2) == b"\x1f\x8b"


def _magic(path: Path) -> bytes:
    if not _packed(path):
        return first_bytes(path, 4)
    try:
        with gzip.open(path) as file:
            return file.read(4)
    except (OSError, EOFError, ValueError, zlib.error):
        return b""  # some other, or a damaged, gzip file: not recognised


def _expected(path: Path) -> int:
    """The length in bytes that the head of a plain IDX file implies."""
    head = first_bytes(path, 16)
    count = 3 if head[:4] == IMAGES else 1
    if len(head) < 4 + 4 * count:
        return -1
    return 4 + 4 * count + math.prod(struct.unpack(f">{count}I", head[4 : 4 + 4 * count]))


def _read(path: Path, magic: bytes) -> np.ndarray:
    """The array of uint8 that an IDX file holds: (n,H,W) for images, (n,) for labels."""
    count = magic[3]
    with reading(path, what="an IDX file"), gzip.open(path) if _packed(path) else path.open("rb") as file:
        head = file.read(4 + 4 * count)
        if head[:4] != magic:
            raise BadFile(
                f"{path} begins with {head[:4].hex()}, not with {magic.hex()}", hint="give IDX files of bytes"
            )
        shape = struct.unpack(f">{count}I", head[4:])
        size = math.prod(shape)
        whole = size <= MAX_RATIO * path.stat().st_size
        data = file.read(size) if whole else b""
        if len(data) != size or file.read(1):
            found = "more" if whole and len(data) == size else "less"
            raise BadFile(f"{path} holds {found} than the {size} bytes of its shape {shape}", hint="fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
