"""Data sets that other libraries read: Hugging Face's and torchvision's, from folders, with nothing fetched."""

from __future__ import annotations

import importlib
import io
import socket
from pathlib import Path

import numpy as np
import pytest

from holdfast.data.load import load
from holdfast.foundation.errors import BadData, BadFile, BadValue, UnknownName


def needs(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a torchvision of another torch fails with RuntimeError
        pytest.skip(f"{name} cannot be imported: {type(error).__name__}: {error}")


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refuse(*where, **how):
        raise AssertionError(f"asked the network: {where}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def encoded(array: np.ndarray) -> bytes:
    from PIL import Image

    into = io.BytesIO()
    Image.fromarray(array).save(into, "PNG")
    return into.getvalue()


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 12, 12, 3), np.uint8)


def saved(pictures: np.ndarray, folder: Path, *, cells=None, labels=None) -> Path:
    import datasets

    names = datasets.ClassLabel(names=["cat", "dog"])
    cells = cells or [{"bytes": encoded(one), "path": None} for one in pictures]
    held = datasets.Dataset.from_dict({"image": cells, "label": labels or [n % 2 for n in range(len(cells))]})
    held = held.cast_column("image", datasets.Image()).cast_column("label", names)
    datasets.DatasetDict({"train": held.select(range(4)), "test": held.select(range(4, len(cells)))}).save_to_disk(
        folder
    )
    return folder


def test_a_folder_of_hugging_face_is_read(pictures, tmp_path, no_network) -> None:
    needs("datasets")
    folder = saved(pictures, tmp_path / "set")
    source = load(f"hf:{folder}")
    assert (source.name, source.class_names, source.shape, len(source)) == ("set:test", ("cat", "dog"), (3, 12, 12), 6)
    batch = source.take([5, 0])
    assert np.array_equal(batch.images, pictures[[9, 4]].transpose(0, 3, 1, 2)) and batch.labels.tolist() == [1, 0]
    assert len(load(f"hf:{folder}", split="train")) == 4 and len(load(f"hf:{folder}", limit=2)) == 2
    assert load(f"hf:{folder}").fingerprint() == source.fingerprint()
    pictures[4, 0, 0, 0] ^= 1
    assert load(f"hf:{saved(pictures, tmp_path / 'other')}").fingerprint() != source.fingerprint()
    with pytest.raises(UnknownName, match="val"):
        load(f"hf:{folder}", split="val")


def test_what_hugging_face_cannot_give_is_refused(pictures, tmp_path, no_network) -> None:
    needs("datasets")
    import datasets

    from holdfast.data.libraries.hf import _table

    for path in ("https://example.org/x.png", str(tmp_path / "secret.png")):
        (tmp_path / "secret.png").write_bytes(encoded(pictures[0]))
        rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path}], "label": [0]})
        with pytest.raises(BadData, match="holds no bytes"):
            _table(rows.cast_column("image", datasets.Image()), name="theirs")
    with pytest.raises(BadFile, match="no folder"):
        load(f"hf:{tmp_path / 'absent'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile, match="save_to_disk"):
        load(f"hf:{tmp_path / 'empty'}")
    with pytest.raises(BadFile, match="--download"):
        load("hf:nobody/nothing")
    cells = [{"bytes": encoded(one), "path": None} for one in [*pictures[:9], pictures[9, :8]]]
    mixed = saved(pictures, tmp_path / "mixed", cells=cells)
    with pytest.raises(BadData, match=r"sample 0 of mixed:test has \(12, 12\), sample 5 of mixed:test has \(8, 12\)"):
        load(f"hf:{mixed}")
    assert load(f"hf:{mixed}", size=8).take([5, 0]).images.shape == (2, 3, 8, 8)


def idx(array: np.ndarray) -> bytes:
    return (
        b"\x00\x00\x08"
        + bytes([array.ndim])
        + b"".join(side.to_bytes(4, "big") for side in array.shape)
        + array.tobytes()
    )


def test_a_set_of_torchvision_is_read(pictures, tmp_path, no_network) -> None:
    needs("torchvision")
    grey = pictures[..., 0]
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(grey))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(10, dtype=np.uint8)))
    source = load(f"torchvision:MNIST:{tmp_path}")
    assert (source.name, len(source), source.shape) == ("MNIST:test", 10, (1, 12, 12))
    assert source.class_names[0] == "0 - zero"
    assert np.array_equal(source.take([3]).images[0, 0], grey[3])
    assert load(f"torchvision:MNIST:{tmp_path}", split="train").name == "MNIST:train"
    with pytest.raises(BadFile, match="cannot read KMNIST"):
        load(f"torchvision:KMNIST:{tmp_path}")


def test_sets_of_torchvision_are_named_in_full() -> None:
    with pytest.raises(BadValue, match="pickles"):
        load("torchvision:CIFAR10:data")
    with pytest.raises(UnknownName, match="MNST"):
        load("torchvision:MNST:data")
    with pytest.raises(BadValue, match="no folder"):
        load("torchvision:MNIST")
