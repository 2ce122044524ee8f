"""Parquet files in the layout of Hugging Face's data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from holdfast.data.check import check_images
from holdfast.data.decode import common, decoded, look
from holdfast.data.fingerprint import digest, of_file
from holdfast.data.reading import first_bytes, reading
from holdfast.data.size import Size, marked
from holdfast.data.source import Batch, locate, numbered, pick_split
from holdfast.foundation.errors import BadData, BadFile, BadValue
from holdfast.foundation.registry import register

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
NUM_HELD = 2
NUM_LOOKS = 32


@dataclass(frozen=True)
class Group:
    """A row group of a file: the unit in which Parquet is read. ``metadata`` spares parsing the footer again."""

    path: Path
    number: int
    rows: int
    metadata: Any = field(repr=False)


@register
@dataclass(frozen=True, eq=False)
class Parquet:
    """Images and labels in Parquet files as Hugging Face's data sets have them; one file, or a folder of them.

    Columns ``image`` or ``img`` (a struct with ``bytes``, or plain bytes, encoded as PNG, JPEG, ...) and ``label``,
    ``labels`` or ``fine_label``; class names from the schema's ``huggingface`` metadata. Only the labels and the still
    encoded images of the last two row groups are held, so that memory does not grow with the data. Ids in random order
    read a row group again and again; ask in ascending order, or take all and keep them.
    """

    needs_path: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True
    looks_for: ClassVar[str] = "Parquet files with the columns image|img and label|labels|fine_label"

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    column: str
    groups: tuple[Group, ...] = field(repr=False)
    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    size: Size | None = None
    held: dict[int, Any] = field(default_factory=dict, repr=False)  # a cache; it never changes what is returned
    holding: Lock = field(default_factory=Lock, repr=False)

    @staticmethod
    def recognises(path: Path) -> bool:
        if path.is_dir():
            return bool(_files(path))
        return path.is_file() and first_bytes(path, 4) == b"PAR1"

    @staticmethod
    def open(path: Path | None, *, split: str | None = None, size: Size | None = None) -> Parquet:
        """The files whose names begin with the split (``test-00000-of-00001.parquet``); by default the test part.

        ``size`` (H, W): to which `holdfast.data.size.cropped` brings every image; left out, all must have one size.

        Raises:
            BadFile: truncated or damaged, other columns, or pyarrow is not installed.
            BadData: labels or images that cannot be evaluated.
            UnknownName: a split that no file's name begins with.
        """
        if path is None:
            raise BadValue("parquet needs a path", hint="give a .parquet file or a folder of them")
        parts: dict[str, list[Path]] = {}
        for file in _files(path) if path.is_dir() else [path]:
            parts.setdefault(_split_of(file), []).append(file)
        part = pick_split(parts, split, where=str(path))
        name = path.name if path.is_file() else f"{path.name}:{part}"
        groups, labels, columns, class_names = _scan(parts[part])
        source = Parquet(name, class_names, (0, 0, 0), columns[0], groups, np.arange(len(labels)), labels, size)
        return replace(source, shape=source._look())

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        images = np.empty((len(places), *self.shape), np.uint8)
        starts = np.cumsum([0, *(group.rows for group in self.groups)])
        owner = np.searchsorted(starts, places, side="right") - 1
        for group in np.unique(owner):
            cells = self._cells(int(group))
            for row in np.flatnonzero(owner == group):
                place = int(places[row])
                where, data = self._at(place), self._bytes(cells, place - starts[group], place)
                images[row] = decoded(data, self.shape, where=where, size=self.size)
        if len(places):
            check_images(images, self.labels[places], where=self.name, ids=places, num_classes=len(self.class_names))
        return Batch(images, self.labels[places])

    def fingerprint(self) -> str:
        files = dict.fromkeys(group.path for group in self.groups)
        return marked(digest(*(of_file(path) for path in files)), self.size)

    def _at(self, place: int) -> str:
        return f"sample {place} of {self.name}"

    def _cells(self, number: int) -> Any:
        """The encoded images of a row group, as a column of bytes."""
        with self.holding:  # of several threads that want the same row group, one reads it
            if number not in self.held:
                group, pq = self.groups[number], _pyarrow().parquet
                with reading(group.path, what="a Parquet file"):
                    with pq.ParquetFile(group.path, metadata=group.metadata) as file:
                        table = file.read_row_group(group.number, columns=[self.column], use_threads=False)
                    table = table.flatten()
                while len(self.held) >= NUM_HELD:
                    del self.held[next(iter(self.held))]
                self.held[number] = table.column(f"{self.column}.bytes" if table.num_columns > 1 else 0)
            return self.held[number]

    def _bytes(self, cells: Any, row: int, place: int) -> bytes:
        data = cells[int(row)].as_py()
        if not data:
            raise BadData(f"{self._at(place)} holds no bytes", hint="embed the images: a path alone is not followed")
        return data

    def _look(self) -> tuple[int, int, int]:
        """The shape of the first `NUM_LOOKS` images; colour if one of them is."""
        cells = self._cells(0)
        rows = range(min(NUM_LOOKS, len(cells)))
        heads = ((self._at(row), look(self._bytes(cells, row, row), where=self._at(row))) for row in rows)
        return common(heads, self.size)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadFile(
            "Parquet files are read with pyarrow, which is missing", hint="pip install 'holdfast[parquet]'"
        ) from None
    return pyarrow


def _files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of its folder ``data``, where Hugging Face puts them."""
    with reading(folder, what="a folder"):
        return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def _split_of(file: Path) -> str:
    return file.stem.partition("-")[0].partition(".")[0]


def _scan(files: list[Path]) -> tuple[tuple[Group, ...], np.ndarray, tuple[str, str], tuple[str, ...]]:
    """The row groups that hold rows, all labels, the two columns' names and the class names of some files."""
    pq = _pyarrow().parquet
    groups: list[Group] = []
    labels: list[np.ndarray] = []
    known: set[tuple[str, str, tuple[str, ...]]] = set()
    for path in files:
        with reading(path, what="a Parquet file"), pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow)
            column = file.read(columns=[columns[1]], use_threads=False).column(0)
            metadata = file.metadata
            schema = file.schema_arrow
        labels.append(_labels(path, columns[1], column))
        known.add((*columns, _class_names(schema, columns[1])))
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        groups += [Group(path, number, count, metadata) for number, count in enumerate(rows) if count]
    if len(known) > 1:
        raise BadFile(
            f"{files[0]} and its neighbours differ in columns or class names", hint="keep one data set a folder"
        )
    image, label, class_names = known.pop()
    numbers = np.concatenate(labels)
    count = len(class_names) or None
    where = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    check_images(np.zeros((len(numbers), 1, 1, 1), np.uint8), numbers, where=where, num_classes=count)
    return tuple(groups), numbers, (image, label), class_names or numbered(int(numbers.max()) + 1)


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    found = [next((name for name in names if name in schema.names), None) for names in (IMAGES, LABELS)]
    if found[0] is None or found[1] is None:
        raise BadFile(
            f"{path} has the columns {', '.join(schema.names)}; looked for {'|'.join(IMAGES)} and {'|'.join(LABELS)}",
            hint="rename the columns of the images and the labels",
        )
    types, kind = _pyarrow().types, schema.field(found[0]).type
    cell = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (types.is_binary(cell) or types.is_large_binary(cell)):
        raise BadFile(
            f"the column {found[0]} of {path} is {kind}", hint="encoded images are needed: struct<bytes, path>"
        )
    return found[0], found[1]


def _labels(path: Path, name: str, column: Any) -> np.ndarray:
    if not _pyarrow().types.is_integer(column.type):
        raise BadData(f"the column {name} of {path} is {column.type}", hint="number the classes from 0")
    if column.null_count:
        row = next(row for row, value in enumerate(column) if not value.is_valid)
        raise BadData(f"row {row} of {path} has no label", hint="take a split whose labels are public")
    return column.to_numpy().astype(np.int64, copy=False)


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names in the ``huggingface`` metadata; none where there are none, or where they cannot be understood."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
