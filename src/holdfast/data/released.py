"""The released files of a corruption benchmark: CIFAR-10-C's arrays, ImageNet-C's folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from holdfast.data.fingerprint import digest, of_array, of_files
from holdfast.data.folder import Folder
from holdfast.data.reading import reading
from holdfast.data.source import Batch, Source, locate
from holdfast.foundation.errors import BadData, BadFile, UnknownName

SEVERITIES = (1, 2, 3, 4, 5)


class Released(Protocol):
    """Corrupted images that somebody stored: for every corruption and severity the same images in the same order.

    ``corruptions``: the names found, in alphabetical order. ``ids``: of the clean images that they are of, ascending int64,
    one per image of a condition. ``shape``: (C, H, W).
    """

    @property
    def name(self) -> str: ...
    @property
    def corruptions(self) -> tuple[str, ...]: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...

    def take(self, corruption: str, severity: int, ids: np.ndarray) -> Batch:
        """The images of these ids, uint8, with their labels.

        Raises:
            UnknownName: a corruption that is not there.
            BadValue: an id that is not there.
            BadFile, BadData: images that cannot be read, or are of another size.
        """
        ...

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the files do."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayFiles:
    """CIFAR-10-C's layout: ``NAME.npy``, uint8 (5 n, H, W, 3), the blocks of severities 1 to 5; ``labels.npy``.

    ``ids.npy``, which `holdfast corrupt` adds where only a part of the images was written, says which ones; else the ids
    are 0 to n - 1.
    """

    root: Path
    name: str
    corruptions: tuple[str, ...]
    ids: np.ndarray = field(repr=False)
    shape: tuple[int, int, int]
    labels: np.ndarray = field(repr=False)

    @staticmethod
    def open(root: Path) -> ArrayFiles:
        """The arrays in ``root``. Raises BadFile or BadData where one has the wrong shape, naming both."""
        labels = _array(root / "labels.npy")
        files = sorted(one for one in root.glob("*.npy") if one.name not in ("labels.npy", "ids.npy"))
        if not files:
            raise BadFile(
                f"{root} holds labels.npy and no other array", hint="put NAME.npy of each corruption beside it"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % len(SEVERITIES):
            raise BadData(
                f"{root / 'labels.npy'} is {labels.dtype} of shape {labels.shape}; integers of shape (5 n,) are needed",
                hint="take the labels.npy of the same release",
            )
        rows, shape = len(labels), None
        for file in files:
            array = _array(file)
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or len(array) != rows:
                raise BadData(
                    f"{file} is {array.dtype} of shape {array.shape}; uint8 of shape ({rows}, H, W, 3) is needed, one row "
                    "per label",
                    hint="fetch it again, or take it out of the folder",
                )
            shape = shape or array.shape[1:]
            if array.shape[1:] != shape:
                raise BadData(
                    f"{file} has images of shape {array.shape[1:]}, the others {shape}",
                    hint="keep one benchmark a folder",
                )
        assert shape is not None
        height, width, channels = shape
        names, n = tuple(file.stem for file in files), rows // len(SEVERITIES)
        ids = np.asarray(_array(root / "ids.npy")) if (root / "ids.npy").is_file() else np.arange(n)
        if ids.shape != (n,) or ids.dtype.kind not in "iu" or (np.diff(ids) <= 0).any():
            raise BadData(f"{root / 'ids.npy'} does not hold {n} ascending integers", hint="write the set again")
        return ArrayFiles(root, root.name, names, ids.astype(np.int64), (channels, height, width), labels)

    def take(self, corruption: str, severity: int, ids: np.ndarray) -> Batch:
        if corruption not in self.corruptions:
            raise UnknownName.among(f"corruption in {self.root}", corruption, self.corruptions)
        rows = (severity - 1) * len(self.ids) + locate(self.ids, ids, where=self.name)
        images = _array(self.root / f"{corruption}.npy")[rows]
        return Batch(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), self.labels[rows].astype(np.int64))

    def fingerprint(self) -> str:
        return digest(
            of_array(self.ids), of_files(self.root, ["labels.npy", *(f"{name}.npy" for name in self.corruptions)])
        )


@dataclass(frozen=True, eq=False)
class FolderTree:
    """ImageNet-C's layout: ``NAME/SEVERITY/CLASS/IMAGE.JPEG``, the names at the root or one folder below it."""

    root: Path
    name: str
    corruptions: tuple[str, ...]
    ids: np.ndarray = field(repr=False)
    shape: tuple[int, int, int]
    conditions: dict[tuple[str, int], Folder] = field(repr=False)

    @staticmethod
    def open(root: Path) -> FolderTree:
        """The folders below ``root``. Raises BadFile or BadData where conditions do not hold the same images."""
        folders = {one.name: one for one in _with_severities(root)}
        if not folders:
            raise BadFile(
                f"{root} holds neither labels.npy nor folders NAME/1 to NAME/5",
                hint="give the folder of CIFAR-10-C's arrays, or of ImageNet-C's corruptions",
            )
        conditions = {
            (name, severity): Folder.open(folder / str(severity))
            for name, folder in sorted(folders.items())
            for severity in SEVERITIES
        }
        first = next(iter(conditions.values()))
        for (name, severity), found in conditions.items():
            if len(found) != len(first) or found.shape != first.shape or (found.labels != first.labels).any():
                raise BadData(
                    f"{name}/{severity} in {root} holds {len(found)} images of shape {found.shape}, the first condition "
                    f"{len(first)} of shape {first.shape}, or other classes",
                    hint="every condition must hold the same images: fetch it again",
                )
        return FolderTree(root, root.name, tuple(sorted(folders)), first.ids, first.shape, conditions)

    def take(self, corruption: str, severity: int, ids: np.ndarray) -> Batch:
        if corruption not in self.corruptions:
            raise UnknownName.among(f"corruption in {self.root}", corruption, self.corruptions)
        return self.conditions[corruption, severity].take(ids)

    def fingerprint(self) -> str:
        return digest(*(found.fingerprint() for found in self.conditions.values()))


def open_released(root: Path) -> Released:
    """The released files in ``root``, of either layout.

    Raises:
        BadFile: neither layout is there.
        BadData: arrays or folders that do not belong together.
    """
    with reading(root, what="a folder"):
        root = root.expanduser()
        arrays = (root / "labels.npy").is_file()
        next(root.iterdir(), None)
    return ArrayFiles.open(root) if arrays else FolderTree.open(root)


def check_belongs(released: Released, source: Source) -> None:
    """Refuses clean images that are not those that were corrupted: by their size, their number and their labels."""
    ids = np.asarray(source.ids)
    if released.shape != source.shape:
        raise BadData(
            f"the images of {released.name} have shape {released.shape}, those of {source.name} {source.shape}",
            hint="give with --data the clean test images of the same benchmark",
        )
    if len(missing := np.setdiff1d(ids, released.ids)):
        raise BadData(
            f"{released.name} has {len(released.ids)} images a condition, and not the sample {missing[0]} of {source.name}",
            hint="give with --data the clean test images of the same benchmark",
        )
    few = ids[np.linspace(0, len(ids) - 1, min(len(ids), 256)).astype(int)]
    told, known = released.take(released.corruptions[0], 1, few).labels, source.take(few).labels
    if (told != known).any():
        row = int((told != known).argmax())
        raise BadData(
            f"image {few[row]} has the label {told[row]} in {released.name} and {known[row]} in {source.name}",
            hint="the order of the images differs: give the test images in the benchmark's own order",
        )


def _array(file: Path) -> np.ndarray:
    with reading(file, what="a NumPy array"):
        return np.load(file, mmap_mode="r", allow_pickle=False)


def _with_severities(root: Path) -> Sequence[Path]:
    """Folders that hold the folders 1 to 5, at the root or one below."""
    with reading(root, what="a folder"):
        near = sorted(one for one in root.iterdir() if one.is_dir())
        below = [two for one in near for two in sorted(one.iterdir()) if two.is_dir()]
        return [one for one in (*near, *below) if all((one / str(level)).is_dir() for level in SEVERITIES)]
