"""Data sets of Hugging Face's library datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data.check import check_images
from holdfast.data.decode import common, decoded, look
from holdfast.data.fingerprint import BLOCKS, digest, of_array
from holdfast.data.parquet import IMAGES, LABELS, NUM_LOOKS
from holdfast.data.size import Size, marked
from holdfast.data.source import Batch, Source, locate, numbered, pick_split
from holdfast.foundation.errors import BadData, BadFile
from holdfast.foundation.extras import missing, offline
from holdfast.foundation.registry import register

_ID = re.compile(r"[\w.\-]+(/[\w.\-]+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Table:
    """A source over a data set whose images are still encoded. Ids are its row numbers."""

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    rows: Any = field(repr=False)
    size: Size | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        places = locate(self.ids, ids, where=self.name)
        images = np.empty((len(places), *self.shape), np.uint8)
        for row, place in enumerate(places):
            where = f"sample {place} of {self.name}"
            data = _bytes(self.rows, int(place), where)
            images[row] = decoded(data, self.shape, where=where, size=self.size)
        if len(places):
            check_images(images, self.labels[places], where=self.name, ids=places, num_classes=len(self.class_names))
        return Batch(images, self.labels[places])

    def fingerprint(self) -> str:
        """Counts all labels, and the bytes of up to `BLOCKS` evenly spaced images, because reading one may be slow."""
        some = np.unique(np.linspace(0, len(self) - 1, BLOCKS).astype(np.int64))
        parts = [np.frombuffer(_bytes(self.rows, int(place), self.name), np.uint8) for place in some]
        return marked(digest(of_array(self.labels), *map(of_array, parts)), self.size)


@register
def open_hf(named: str, *, split: str | None, size: Size | None, download: bool) -> Source:
    """hf:FOLDER of save_to_disk, or hf:OWNER/NAME of the hub: columns image or img, and label, labels or fine_label.

    A name is looked up in the local cache, and fetched only with ``--download``. Images are decoded here, from the bytes in
    the set: a path or an address in it is not followed.
    """
    try:
        import datasets
    except Exception as error:  # a broken neighbour of it may raise anything
        raise missing("datasets", extra="hf") from error
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    folder = Path(named).expanduser()
    if not folder.is_dir() and (not _ID.fullmatch(named) or named.startswith(".")):
        raise BadFile(f"there is no folder {named}", hint="give a folder of save_to_disk, or OWNER/NAME of the hub")
    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with offline(not download):
            held = datasets.load_from_disk(str(folder)) if folder.is_dir() else datasets.load_dataset(named)
    except Exception as error:  # datasets raises many kinds
        hint = "it may not be in the local cache: add --download to fetch it"
        if folder.is_dir():
            hint = "give a folder that save_to_disk wrote; other folders are read without hf: in front"
        raise BadFile(f"{named} cannot be read: {type(error).__name__}: {error}", hint=hint) from error
    finally:
        if bars:
            enable_progress_bar()
    parts = held if isinstance(held, dict) else {split or "all": held}
    part = pick_split(map(str, parts), split, where=f"hf:{named}")
    return _table(parts[part], name=f"{folder.name}:{part}" if isinstance(held, dict) else folder.name, size=size)


def _table(rows: Any, *, name: str, size: Size | None = None) -> Table:
    import datasets

    found = [next((one for one in names if one in rows.column_names), None) for names in (IMAGES, LABELS)]
    image, label = found
    if image is None or label is None or not isinstance(rows.features[image], datasets.Image):
        raise BadFile(
            f"{name} has the columns {', '.join(rows.column_names)}; looked for images {'|'.join(IMAGES)} and "
            f"{'|'.join(LABELS)}",
            hint="rename the columns: dataset.rename_column",
        )
    if not len(rows):
        raise BadData(f"{name} is empty", hint="give a part with samples")
    labels = np.asarray(rows.with_format("numpy", columns=[label])[:][label])
    names = getattr(rows.features[label], "names", None)
    where = f"the labels of {name}"
    check_images(
        np.zeros((len(rows), 1, 1, 1), np.uint8), labels, where=where, num_classes=len(names) if names else None
    )
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    heads = []
    for place in range(min(NUM_LOOKS, len(encoded))):
        sample = f"sample {place} of {name}"
        heads.append((sample, look(_bytes(encoded, place, sample), where=sample)))
    return Table(
        name=name,
        class_names=tuple(names) if names else numbered(int(labels.max()) + 1),
        shape=common(heads, size),
        ids=np.arange(len(rows), dtype=np.int64),
        labels=labels.astype(np.int64),
        rows=encoded,
        size=size,
    )


def _bytes(rows: Any, place: int, where: str) -> bytes:
    (cell,) = rows[place].values()
    data = cell["bytes"]
    if not data:
        raise BadData(f"{where} holds no bytes", hint="embed the images: a path or an address is not followed")
    return data
