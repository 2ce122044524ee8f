"""The binary version of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from holdfast.data import idx
from holdfast.data.check import check_images
from holdfast.data.fingerprint import digest, of_file
from holdfast.data.reading import reading
from holdfast.data.size import Size, refuse
from holdfast.data.source import Batch, locate, numbered, pick_split
from holdfast.foundation.errors import BadFile, BadValue
from holdfast.foundation.registry import register

PIXELS = 3 * 32 * 32
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEN = {"train": "data_batch_[1-5].bin", "test": "test_batch.bin"}
HUNDRED = {"train": "train.bin", "test": "test.bin"}


@register
@dataclass(frozen=True, eq=False)
class CifarBinary:
    """CIFAR-10 or CIFAR-100 in its binary version: records of 1 or 2 label bytes and 3,072 pixel bytes.

    A folder with the official files, or one such file under any name ending in .bin. Pixels stay on the disk until they
    are asked for. CIFAR-100 gives its fine labels. Class names come from ``batches.meta.txt`` or
    ``fine_label_names.txt`` beside the data; without them CIFAR-10 has its own ones and CIFAR-100 numbers.
    """

    needs_path: ClassVar[bool] = True
    looks_for: ClassVar[str] = (
        "CIFAR-10 or CIFAR-100, binary version (data_batch_1.bin, test_batch.bin; train.bin, test.bin)"
    )

    name: str
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    records: tuple[np.ndarray, ...] = field(repr=False)
    shape: tuple[int, int, int] = (3, 32, 32)

    @staticmethod
    def recognises(path: Path) -> bool:
        if path.is_dir():
            return any(next(path.glob(name), None) for names in (TEN, HUNDRED) for name in names.values())
        if not path.is_file() or path.suffix != ".bin" or idx.Idx.recognises(path):
            return False
        known = any(path.match(name) for names in (TEN, HUNDRED) for name in names.values())
        size = path.stat().st_size
        return known or (size > 0 and (size % (PIXELS + 1) == 0 or size % (PIXELS + 2) == 0))

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> CifarBinary:
        """The test part by default. Raises BadFile for truncated files and labels out of range."""
        if path is None:
            raise BadValue("cifar_binary needs a path", hint="give the folder of the binary version")
        refuse(size, str(path))
        if path.is_dir():
            files, part, names = _of_folder(path, split)
            name = f"{path.name}:{part}"
        elif split is None:
            files, name, names = [path], path.name, None
        else:
            raise BadValue(f"{path} is one file and has no split {split!r}", hint="give its folder, or no split")
        with reading(path, what="CIFAR's binary version"):
            raw = [np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8) for file in files]
        num_labels, num_classes = _kind(raw, files, names)
        records = tuple(one.reshape(-1, PIXELS + num_labels) for one in raw)
        labels = np.concatenate([one[:, num_labels - 1] for one in records]).astype(np.int64)
        return CifarBinary(
            name=name,
            class_names=_class_names(files[0].parent, num_classes),
            files=tuple(files),
            ids=np.arange(len(labels), dtype=np.int64),
            labels=labels,
            records=records,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        images = np.empty((len(places), *self.shape), np.uint8)
        starts = np.cumsum([0, *(len(one) for one in self.records)])
        part = np.searchsorted(starts, places, side="right") - 1
        for one in np.unique(part):
            here = part == one
            rows = self.records[one][places[here] - starts[one]]
            images[here] = rows[:, -PIXELS:].reshape(-1, *self.shape)
        if len(places):
            check_images(images, self.labels[places], where=self.name, ids=places, num_classes=len(self.class_names))
        return Batch(images, self.labels[places])

    def fingerprint(self) -> str:
        return digest(*(of_file(file) for file in self.files))


def _of_folder(path: Path, split: str | None) -> tuple[list[Path], str, dict[str, str]]:
    """The files of the part, the part's name, and the naming scheme (CIFAR-10's or CIFAR-100's)."""
    kinds = [names for names in (TEN, HUNDRED) if any(next(path.glob(name), None) for name in names.values())]
    if len(kinds) > 1:
        raise BadFile(f"{path} holds both CIFAR-10 and CIFAR-100", hint="give each its own folder")
    found = {part: sorted(path.glob(name)) for part, name in kinds[0].items()}
    part = pick_split([one for one, files in found.items() if files], split, where=str(path))
    if kinds[0] is TEN and part == "train" and len(found[part]) < 5:
        raise BadFile(
            f"{path} holds {len(found[part])} of CIFAR-10's 5 training files", hint="unpack the whole archive again"
        )
    return found[part], part, kinds[0]


def _kind(raw: list[np.ndarray], files: list[Path], names: dict[str, str] | None) -> tuple[int, int]:
    """How many label bytes a record has, and how many classes there are: (1, 10) or (2, 100)."""
    kinds = {(1, 10): names is not HUNDRED, (2, 100): names is not TEN}
    for (num_labels, num_classes), possible in kinds.items():
        if possible and all(one.size and one.size % (PIXELS + num_labels) == 0 for one in raw):
            last = [one.reshape(-1, PIXELS + num_labels)[:, num_labels - 1].max() for one in raw]
            if max(last) < num_classes:
                return num_labels, num_classes
    sizes = ", ".join(f"{file.name}: {one.size} bytes" for file, one in zip(files, raw))
    raise BadFile(
        f"no records of CIFAR-10 ({PIXELS + 1} bytes, label below 10) or CIFAR-100 ({PIXELS + 2}, below 100): {sizes}",
        hint="the file is truncated or of another kind; unpack the archive of the binary version again",
    )


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    file = folder / ("batches.meta.txt" if num_classes == 10 else "fine_label_names.txt")
    if file.is_file():
        with reading(file, what="a list of class names"):
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(lines) == num_classes:
            return tuple(lines)
        raise BadFile(f"{file} holds {len(lines)} names for {num_classes} classes", hint="unpack the archive again")
    return CIFAR10 if num_classes == 10 else numbered(num_classes)
