"""NumPy archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.channels import channels_first
from holdfast.data.reading import first_bytes, reading
from holdfast.data.size import Size, refuse
from holdfast.foundation.errors import BadFile, BadValue, UnknownName
from holdfast.foundation.registry import register

IMAGES = ("images", "x")
LABELS = ("labels", "y")
MAX_RATIO, MAX_SURE = 100, 2**30  # more than a gigabyte out of less than a hundredth of it is taken for a bomb


@register
class Npz:
    """Images and labels in one .npz archive, read whole: ``images`` or ``x``, ``labels`` or ``y``, or ``x_test`` etc.

    Images are (n,C,H,W), (n,H,W,C) or (n,H,W). A text array ``class_names`` is taken for the names of the classes.
    Nothing is ever unpickled.
    """

    needs_path: ClassVar[bool] = True
    looks_for: ClassVar[str] = "an .npz archive of the arrays images|x|x_test and labels|y|y_test"

    @staticmethod
    def recognises(path: Path) -> bool:
        return path.is_file() and first_bytes(path, 4) in (b"PK\x03\x04", b"PK\x05\x06")

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> Arrays:
        """The arrays without a suffix; else those with ``_test``; those with ``_SPLIT`` where a split is asked for.

        Raises:
            BadFile: no NumPy archive, damaged, made of pickled objects, or without the arrays that are looked for.
            BadData: arrays that are no images and labels.
            UnknownName: a split that the archive lacks.
        """
        if path is None:
            raise BadValue("npz needs a path", hint="give the path of an .npz file")
        refuse(size, str(path))
        names = members(path)
        if not any(name.endswith(".npy") for name in names):
            raise BadFile(
                f"{path} is a zip archive without NumPy arrays (it begins with {names[:3]})",
                hint="a torch file holds pickled objects, which are never read: np.savez(path, images=..., labels=...)",
            )
        with reading(path, what="an .npz archive without pickled objects"), np.load(path, allow_pickle=False) as file:
            keys = _keys(path, file.files, split)
            # A member whose name has another ending would be given as bytes.
            images, labels = (file[f"{key}.npy"] for key in keys)
            class_names = file["class_names.npy"] if "class_names" in file.files else None
        return from_pair(
            channels_first(images, where=str(path)),
            labels,
            name=path.name if split is None else f"{path.name}:{split}",
            class_names=None if class_names is None else [str(one) for one in class_names.reshape(-1)],
        )


def members(path: Path) -> list[str]:
    """The names in an archive. Raises BadFile where it is none, or a bomb."""
    with reading(path, what="an .npz archive"):
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in archive.infolist()]
            unpacked = sum(member.file_size for member in archive.infolist())
        packed = path.stat().st_size
    if unpacked > MAX_SURE and unpacked > MAX_RATIO * packed:
        raise BadFile(
            f"{path} would unpack {packed} bytes to {unpacked}", hint="if you trust it, save it again uncompressed"
        )
    return names


def _keys(path: Path, found: list[str], split: str | None) -> tuple[str, str]:
    """The keys of the images and the labels that belong together."""
    for suffix in ("", "_test") if split is None else (f"_{split}",):
        images = [key + suffix for key in IMAGES if key + suffix in found]
        labels = [key + suffix for key in LABELS if key + suffix in found]
        if len(images) == 1 and len(labels) == 1:
            return images[0], labels[0]
        if images and labels:
            raise BadFile(f"{path} holds {', '.join(images + labels)}", hint="keep one array of images, one of labels")
    if split is not None:
        splits = {key.partition("_")[2] for key in found if key.partition("_")[0] in IMAGES} - {""}
        raise UnknownName.among(f"split of {path.name}", split, splits or {"none, leave the split out"})
    raise BadFile(
        f"{path} holds the arrays {', '.join(sorted(found)) or '(none)'}; "
        "looked for images|x|x_test and labels|y|y_test",
        hint="np.savez(path, images=..., labels=...)",
    )
