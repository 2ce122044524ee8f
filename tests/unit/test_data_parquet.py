"""Parquet files in Hugging Face's layout."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from holdfast.data.load import load
from holdfast.foundation.errors import BadData, BadFile, UnknownName

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23) % 4


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write(
    path: Path,
    pixels: Any = PIXELS,
    labels: Any = LABELS,
    *,
    names: list[str] | None = None,
    image: str = "image",
    label: str = "label",
    cells: list | None = None,
    plain: bool = False,
) -> Path:
    cells = [png(one) for one in pixels] if cells is None else cells
    column = pa.array(cells) if plain else pa.array([{"bytes": one, "path": None} for one in cells])
    table = pa.table({image: column, label: pa.array(labels), "more": pa.array(range(len(cells)))})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=5)
    return path


def test_row_groups_are_streamed(tmp_path: Path) -> None:
    path = write(tmp_path / "any", names=list("abcd"))
    source: Any = load(path)
    assert (len(source), source.shape, source.class_names) == (23, (3, 6, 5), tuple("abcd"))
    assert len(source.groups) == 5
    wanted = PIXELS.transpose(0, 3, 1, 2)
    for ids in (source.ids, source.ids[::-1], np.array([22, 0, 7, 7, 13]), np.array([4, 5])):
        images, labels = source.take(ids)
        assert (images == wanted[ids]).all() and (labels == LABELS[ids]).all()
        assert len(source.held) <= 2
    assert source.take([]).images.shape == (0, 3, 6, 5)


def test_fingerprint(tmp_path: Path) -> None:
    mark = load(write(tmp_path / "a.parquet")).fingerprint()
    assert load(write(tmp_path / "b.parquet")).fingerprint() == mark
    changed = PIXELS.copy()
    changed[11, 3, 3, 1] ^= 1
    assert load(write(tmp_path / "c.parquet", changed)).fingerprint() != mark


@pytest.mark.parametrize(
    "more",
    [
        {"image": "img"},
        {"label": "labels"},
        {"label": "fine_label"},
        {"plain": True},
        {"names": list("wxyz")},
        {"pixels": PIXELS[..., 0]},
    ],
)
def test_columns(tmp_path: Path, more: dict) -> None:
    source = load(write(tmp_path / "x.parquet", **more))
    assert (source.take([9]).images[0, 0] == PIXELS[9, :, :, 0]).all()
    assert source.class_names == tuple(more.get("names", "0123"))
    assert source.shape[0] == (1 if "pixels" in more else 3)


def test_large_types_and_small_labels(tmp_path: Path) -> None:
    cells = pa.array([png(one) for one in PIXELS], pa.large_binary())
    pq.write_table(pa.table({"image": cells, "label": pa.array(LABELS, pa.int8())}), tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").take([3]).labels.dtype == np.int64


@pytest.mark.parametrize("below", ["", "data"])
def test_folder_of_files(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    write(folder / "train-00000-of-00002.parquet", PIXELS[:12], LABELS[:12])
    write(folder / "train-00001-of-00002.parquet", PIXELS[12:], LABELS[12:])
    write(folder / "test-00000-of-00001.parquet", PIXELS[:3], LABELS[:3])
    assert len(load(tmp_path)) == 3 and load(tmp_path).name.endswith(":test")
    train = load(tmp_path, split="train")
    assert (train.take([22, 11, 12]).images == PIXELS[[22, 11, 12]].transpose(0, 3, 1, 2)).all()
    with pytest.raises(UnknownName):
        load(tmp_path, split="tes")
    write(folder / "test-00001-of-00001.parquet", PIXELS[:3], LABELS[:3], names=list("abcd"))
    with pytest.raises(BadFile, match="differ in columns or class names"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": "picture"}, r"columns picture, label, more; looked for image\|img"),
        ({"label": "class"}, r"looked for image\|img and label\|labels\|fine_label"),
        ({"labels": LABELS - 1}, "label -1(.|\n)*hidden"),
        ({"labels": LABELS + 1, "names": list("abcd")}, "where there are 4 classes"),
        ({"labels": [None, *LABELS[1:].tolist()]}, "row 0 of .* has no label"),
        ({"labels": ["cat"] * 23}, "is string"),
        ({"labels": [0.5] * 23}, "is double"),
        ({"cells": ["text"] * 23}, "encoded images are needed"),
        ({"cells": [None, *[png(one) for one in PIXELS[1:]]]}, "holds no bytes"),
        ({"cells": [b"hello"] * 23}, "sample 0 of x.parquet is no image"),
        ({"cells": [png(PIXELS[0])] * 22 + [png(PIXELS[0])[:-60]]}, "sample 22 of x.parquet is damaged"),
        ({"cells": [png(PIXELS[0])] * 22 + [png(PIXELS[0, :4])]}, r"sample 22 of x.parquet has \(4, 5\)"),
        ({"pixels": [], "labels": np.zeros(0, int), "cells": []}, "."),
    ],
)
def test_what_is_refused(tmp_path: Path, more: dict, message: str) -> None:
    with pytest.raises((BadFile, BadData), match=message):
        source = load(write(tmp_path / "x.parquet", **more))
        source.take(source.ids)


def test_colour_after_grey(tmp_path: Path) -> None:
    cells = [png(one[..., 0]) for one in np.tile(PIXELS, (3, 1, 1, 1))]
    labels = np.tile(LABELS, 3)
    source = load(write(tmp_path / "x.parquet", cells=[*cells[:-1], png(PIXELS[0])], labels=labels))
    assert source.shape == (1, 6, 5)
    with pytest.raises(BadData, match=r"sample 68 .* colour image"):
        source.take([68])


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    table = pa.table({"image": [png(PIXELS[0])], "label": [2]}).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").class_names == ("0", "1", "2")


def test_broken_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    source: Any = load(path)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:100], b"PAR1", whole[:200] + whole[400:]):
        path.write_bytes(data)
        with pytest.raises((BadFile, BadData)):
            broken = load(path)
            broken.take(broken.ids)
    path.unlink()
    source.held.clear()
    with pytest.raises(BadFile, match="does not exist"):
        source.take([0])
    (tmp_path / "text.parquet").write_text("I am text")
    with pytest.raises(BadFile):
        load(tmp_path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadFile, match=r"holdfast\[parquet\]"):
        load(path)
