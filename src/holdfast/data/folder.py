"""A folder of image files, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from holdfast.data.check import check_images
from holdfast.data.decode import ENDINGS, Look, common, decode, look
from holdfast.data.fingerprint import digest, of_array, of_files
from holdfast.data.reading import reading
from holdfast.data.size import Size, marked, unequal
from holdfast.data.source import Batch, locate, pick_split
from holdfast.foundation.errors import BadData, BadFile, BadValue
from holdfast.foundation.registry import register

NUM_LOOKS = 4096  # heads read when the folder is opened; the other files are checked when they are decoded


@register
@dataclass(frozen=True, eq=False)
class Folder:
    """Image files as ROOT/CLASS/IMAGE.png, or ROOT/SPLIT/CLASS/IMAGE.png; classes and files in alphabetical order.

    Images are decoded when they are asked for. They must be of one size, unless ``size`` is given to `open`. They stay
    grey if all whose heads were read are grey; else all become RGB. Files without an image's ending and hidden ones are
    passed over; sample ids are positions in the sorted list.
    """

    needs_path: ClassVar[bool] = True
    looks_for: ClassVar[str] = "a folder with one folder of image files per class"
    concurrent: ClassVar[bool] = True

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    root: Path
    files: tuple[str, ...] = field(repr=False)
    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    size: Size | None = None

    @staticmethod
    def recognises(path: Path) -> bool:
        if not path.is_dir():
            return False
        return _has_images(path) or any(_has_images(one) or _classes(one) for one in _folders(path))

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> Folder:
        """The images below ``path``, or below ``path/split``.

        Args:
            path: the folder of the class folders, or of the splits' folders.
            split: the split's folder; where there are splits and none is asked for, the test or validation one.
            size: (H, W) to which `holdfast.data.size.cropped` brings every image; left out, all must have one size.

        Raises:
            BadFile: no class folders, or a file that is no image.
            BadData: a class without images, or images of different sizes.
            UnknownName: a split that is not there.
        """
        if path is None:
            raise BadValue("folder needs a path", hint="give a folder with one folder of images per class")
        root, name = path, path.name
        if split is not None or not _classes(path):
            splits = [one.name for one in _folders(path) if _classes(one)]
            if not splits and split is None:
                raise BadFile(f"{path} holds no class folders", hint="put the images of each class into its own folder")
            if not splits:
                raise BadValue(f"{path} has no folder of a split {split!r}", hint="leave the split out")
            part = pick_split(splits, split, where=str(path))
            root, name = path / part, f"{name}:{part}"
        files: list[str] = []
        labels: list[int] = []
        class_names = [one.name for one in _folders(root)]
        for label, one in enumerate(class_names):
            images = _images(root / one)
            if not images:
                raise BadData(f"the class folder {root / one} holds no images", hint="remove it, or add its images")
            files += [f"{one}/{image}" for image in images]
            labels += [label] * len(images)
        shape = _shape(root, files, size)
        ids = np.arange(len(files), dtype=np.int64)
        numbers = np.asarray(labels, dtype=np.int64)
        return Folder(name, tuple(class_names), shape, root, tuple(files), ids, numbers, size)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        images = np.empty((len(places), *self.shape), np.uint8)
        for row, place in enumerate(places):
            file = self.root / self.files[place]
            image = decode(file, channels=self.shape[0], where=f"sample {place}: {file}", size=self.size)
            if image.shape != self.shape:
                raise unequal(str(self.root / self.files[0]), self.shape[1:], str(file), image.shape[1:])
            images[row] = image
        if len(places):
            check_images(images, self.labels[places], where=self.name, ids=places, num_classes=len(self.class_names))
        return Batch(images, self.labels[places])

    def fingerprint(self) -> str:
        return marked(digest("as it is", of_array(self.labels), of_files(self.root, self.files)), self.size)


def _folders(path: Path) -> list[Path]:
    with reading(path, what="a folder"):
        return sorted((one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")), key=_by_name)


def _by_name(path: Path) -> str:
    return path.name  # paths themselves sort without regard to case on Windows, and so would the classes


def _is_image(one: os.DirEntry[str]) -> bool:
    # An entry of a listing knows whether it is a file; a path would ask the disk.
    return Path(one.name).suffix.lower() in ENDINGS and not one.name.startswith(".") and one.is_file()


def _has_images(path: Path) -> bool:
    with reading(path, what="a folder"), os.scandir(path) as inside:
        return any(map(_is_image, inside))


def _classes(path: Path) -> bool:
    return any(_has_images(one) for one in _folders(path))


def _images(path: Path) -> list[str]:
    with reading(path, what="a folder"), os.scandir(path) as inside:
        return sorted(one.name for one in inside if _is_image(one))


def _shape(root: Path, files: list[str], size: Size | None) -> tuple[int, int, int]:
    """(C, H, W) of all images, from the heads of up to `NUM_LOOKS` evenly spaced files."""
    seen: dict[Look, str] = {}
    for place in np.unique(np.linspace(0, len(files) - 1, NUM_LOOKS).astype(int)):
        file = root / files[place]
        seen.setdefault(look(file, where=str(file)), str(file))
    return common(((file, head) for head, file in seen.items()), size)
