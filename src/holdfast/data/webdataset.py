"""Shards of samples in tar files, as the library webdataset writes them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

import numpy as np

from holdfast.data.check import check_images
from holdfast.data.decode import ENDINGS, common, decoded, look
from holdfast.data.fingerprint import digest, of_array, of_file
from holdfast.data.reading import reading
from holdfast.data.size import Size, marked
from holdfast.data.source import Batch, locate, numbered, pick_split
from holdfast.foundation.errors import BadData, BadFile, BadValue, HoldfastError
from holdfast.foundation.registry import register

SPLITS = ("train", "test", "validation", "val", "valid")
NAMES = ("classes.txt", "classnames.txt", "*.names")
NUM_LOOKS = 256
MOST_IMAGE = 64 * 2**20
MOST_LABEL = 2**20


@register
@dataclass(frozen=True, eq=False)
class WebDataset:
    """Tar files (shards) of KEY.jpg|png|webp|... beside KEY.cls (an integer) or KEY.json with "label".

    One shard, a pattern (``shards/test-*.tar``), a folder of shards, or of the splits' folders (`SPLITS`) with shards.
    Nothing is unpacked: the headers are read once, and images from their places in the shards when they are asked for. Ids
    are positions: shards by name, members as they lie. Class names, one a line, from ``classes.txt``, ``classnames.txt`` or
    ``*.names`` beside the shards or in the folder above a split's.
    """

    needs_path: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True
    looks_for: ClassVar[str] = "uncompressed .tar shards with KEY.jpg (or another image) and KEY.cls or KEY.json"

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    shards: tuple[Path, ...]
    members: tuple[str, ...] = field(repr=False)
    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    places: np.ndarray = field(repr=False)  # (n, 3): shard, offset and size in bytes of each image
    size: Size | None = None

    @staticmethod
    def recognises(path: Path) -> bool:
        return bool(_parts(path))

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> WebDataset:
        """The shards of a split: of its folder, or those with its name as a word in theirs (``x-test-000.tar``).

        ``size`` (H, W): to which `holdfast.data.size.cropped` brings every image; left out, all must have one size.

        Raises:
            BadFile: a shard that is truncated, damaged, compressed, or holds links or devices; with the member.
            BadData: a member without its image or its label, labels or images that cannot be evaluated; likewise.
            UnknownName: a split that is not there.
        """
        if path is None:
            raise BadValue("webdataset needs a path", hint="give a .tar file, a pattern, or a folder of them")
        parts = _parts(path)
        part = pick_split(parts, split, where=str(path))
        shards = parts[part]
        found = [(number, one) for number, shard in enumerate(shards) for one in _scan(shard)]
        if not found:
            raise BadData(
                f"{shards[0]} and the shards beside it hold no images", hint=f"looked for {', '.join(ENDINGS)}"
            )
        labels = np.array([one.label for _, one in found], dtype=np.int64)
        class_names = _class_names(path, shards[0].parent)
        name = path.name if part == "" or path.is_file() else f"{path.name}:{part}"
        stand_in = np.zeros((len(labels), 1, 1, 1), np.uint8)
        check_images(stand_in, labels, where=name, num_classes=len(class_names) or None)
        source = WebDataset(
            name=name,
            class_names=class_names or numbered(int(labels.max()) + 1),
            shape=(0, 0, 0),
            shards=shards,
            members=tuple(one.name for _, one in found),
            ids=np.arange(len(found), dtype=np.int64),
            labels=labels,
            places=np.array([(number, one.offset, one.size) for number, one in found], dtype=np.int64),
            size=size,
        )
        return replace(source, shape=source._look())

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        asked = locate(self.ids, ids, where=self.name)
        images = np.empty((len(asked), *self.shape), np.uint8)
        for row, where, data in self._encoded(asked):
            images[row] = decoded(data, self.shape, where=where, size=self.size)
        return Batch(images, self.labels[asked])

    def fingerprint(self) -> str:
        return marked(digest(of_array(self.labels), *(of_file(shard) for shard in self.shards)), self.size)

    def _encoded(self, asked: np.ndarray) -> Iterator[tuple[int, str, bytes]]:
        """Row, description and bytes of the images at some places, each shard opened once."""
        for number in np.unique(self.places[asked, 0]):
            shard = self.shards[number]
            with reading(shard, what="a tar file"):
                file = shard.open("rb")
            with file:
                for row in np.flatnonzero(self.places[asked, 0] == number):
                    _, offset, size = self.places[asked[row]].tolist()
                    with reading(shard, what="a tar file"):
                        file.seek(offset)
                        data = file.read(size)
                    yield int(row), f"sample {asked[row]}: {self.members[asked[row]]} in {shard}", data

    def _look(self) -> tuple[int, int, int]:
        """The shape of `NUM_LOOKS` evenly spaced images; colour if one of them is."""
        some = np.unique(np.linspace(0, len(self) - 1, NUM_LOOKS).astype(int))
        return common(((where, look(data, where=where)) for _, where, data in self._encoded(some)), self.size)


class _Member(NamedTuple):
    """A file in a shard: ``key`` and ``ending`` are its name up to, and from, the first dot of its last part."""

    key: str
    ending: str
    name: str
    offset: int
    size: int


class _Sample(NamedTuple):
    """An image in a shard, with its label."""

    name: str
    offset: int
    size: int
    label: int


def _parts(path: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> shards by name; the split is "" where neither folders nor names say one."""
    if path.is_file():
        return {path.stem: (path,)} if path.suffix == ".tar" else {}
    with reading(path, what="a folder"):
        if not path.is_dir():
            return _by_word(path.parent.glob(path.name))
        inside = {name: tuple(_sorted((path / name).glob("*.tar"))) for name in SPLITS}
        return _by_word(path.glob("*.tar")) or {name: shards for name, shards in inside.items() if shards}


def _by_word(found: Iterator[Path]) -> dict[str, tuple[Path, ...]]:
    parts: dict[str, tuple[Path, ...]] = {}
    for shard in _sorted(found):
        words = "".join(letter if letter.isalpha() else " " for letter in shard.stem).split()
        part = next((word for word in words if word in SPLITS), "")
        parts[part] = (*parts.get(part, ()), shard)
    return parts


def _sorted(found: Iterator[Path]) -> list[Path]:
    return sorted((one for one in found if one.suffix == ".tar" and one.is_file()), key=attrgetter("name"))


def _scan(shard: Path) -> Iterator[_Sample]:
    """The samples of a shard in their order. The members of one lie one after another, as webdataset wants them."""
    with reading(shard, what="an uncompressed tar file"), shard.open("rb") as file:
        for _, group in groupby(_members(shard, file), key=attrgetter("key")):
            members = list(group)
            files: dict[str, _Member] = {}
            for one in members:
                if one.ending in files:
                    raise BadData(f"{shard} holds {one.name} twice in a row", hint="give every sample a key of its own")
                files[one.ending] = one
            images = [one for one in members if one.ending in ENDINGS]
            label = files.get(".cls") or files.get(".json")
            if not images and ".cls" not in files:
                continue  # a note, or another modality
            if len(images) != 1 or label is None:
                missing = "no .cls or .json" if images and label is None else f"{len(images)} images"
                raise BadData(
                    f"the sample {members[0].key} in {shard} has {missing} beside {members[0].name}",
                    hint="each needs one image and one label, one after the other in the shard: tar --sort=name",
                )
            image = images[0]
            if image.size > MOST_IMAGE:
                raise BadFile(f"{image.name} in {shard} claims {image.size:,} bytes", hint="leave it out, or shrink it")
            yield _Sample(image.name, image.offset, image.size, _label(shard, label, file))


def _members(shard: Path, file: BinaryIO) -> Iterator[_Member]:
    """The regular files of a shard. Nothing is written anywhere, so that their names can do no harm."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header, which grows with the data
            folder, _, last = member.name.rpartition("/")
            if member.isdir() or last.startswith("."):
                continue
            if not member.isreg() or member.issparse():
                raise BadFile(f"{member.name} in {shard} is a link, a device or sparse", hint="store plain files only")
            stem, dot, ending = last.partition(".")
            yield _Member(f"{folder}/{stem}", dot + ending.lower(), member.name, member.offset_data, member.size)
        # tarfile takes a damaged or missing header for the end; the real end is zeros up to the end of the file.
        file.seek(tar.offset)
        rest = file.read(2 * tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise BadFile(
            f"{shard} is damaged or cut at byte {tar.offset:,}: neither a member nor the end of the archive is there",
            hint="fetch or write it again; of joined archives, give the parts",
        )


def _label(shard: Path, member: _Member, file: BinaryIO) -> int:
    where = f"{member.name} in {shard}"
    if member.size > MOST_LABEL:
        raise BadFile(f"{where} claims {member.size:,} bytes for a label", hint="store a number")
    file.seek(member.offset)
    data = file.read(member.size)
    try:
        text = data.decode()
        found = int(text) if member.ending == ".cls" else json.loads(text)["label"]
        if type(found) is not int or not 0 <= found < 2**31:
            raise BadData(f"{where} gives the label {found!r}", hint="classes are whole numbers counted from 0")
    except HoldfastError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        shown = data[:40]
        raise BadData(
            f"{where} holds {shown!r}, no label", hint='a .cls holds a whole number, a .json {"label": number}'
        ) from None
    return found


def _class_names(path: Path, folder: Path) -> tuple[str, ...]:
    """One name a line, from the first of `NAMES` beside the shards or in ``path``; none where there is none."""
    folders = dict.fromkeys((folder, path) if path.is_dir() else (folder,))
    files = [file for one in folders for pattern in NAMES for file in sorted(one.glob(pattern))]
    if not files:
        return ()
    with reading(files[0], what="a list of class names"):
        lines = files[0].read_text("utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
