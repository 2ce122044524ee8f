"""Subsets, ids, fingerprints, and what is refused as an image or a label."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data import fingerprint
from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.channels import channels_first
from holdfast.data.check import check_images
from holdfast.data.source import Source, locate, pick_split, subset, unit_images
from holdfast.foundation.errors import BadData, BadFile, BadValue, UnknownName


def some(n: int = 20) -> Arrays:
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 2, 2), dtype=np.uint8)
    return from_pair(images, np.arange(n) % 3, ids=np.arange(n) * 10)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**40))
def test_subset(n: int, limit: int, seed: int) -> None:
    source = some(n)
    part = subset(source, limit, seed)
    if limit >= n:
        assert part is source
        return
    assert isinstance(part, Source) and len(part) == limit
    assert (np.diff(part.ids) > 0).all() and set(part.ids) <= set(source.ids)
    again = subset(some(n), limit, seed)
    assert (part.ids == again.ids).all() and part.fingerprint() == again.fingerprint() != source.fingerprint()
    assert set(part.ids) < set(subset(source, limit + 1, seed).ids)
    assert (part.take(part.ids[::-1]).images == source.take(part.ids[::-1]).images).all()
    assert (part.shape, part.class_names, part.name) == (source.shape, source.class_names, source.name)


def test_subset_is_the_same_on_every_machine() -> None:
    assert subset(some(), 5, 0).ids.tolist() == [20, 30, 110, 130, 150]  # pinned: published numbers hang on such draws
    assert subset(some(), 5, 1).ids.tolist() != [20, 30, 110, 130, 150]


def test_every_sample_is_drawn_equally_often() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[subset(some(), 5, seed).ids // 10] += 1
    assert np.abs(counts - 500).max() < 100  # five standard deviations


@pytest.mark.parametrize(("limit", "seed"), [(0, 0), (-1, 0), (1.5, 0), (True, 0), (3, -1), (3, 0.5)])
def test_subset_refuses(limit: int, seed: int) -> None:
    with pytest.raises(BadValue):
        subset(some(), limit, seed)


def test_ids_that_are_not_there() -> None:
    source, part = some(), subset(some(), 5, 0)
    for given_ids in ([5], [-10], [200], [0.0], [[0]]):
        with pytest.raises(BadValue):
            source.take(given_ids)
    outside = next(one for one in source.ids if one not in part.ids)
    with pytest.raises(BadValue, match=f"no sample {outside}"):
        part.take([outside])
    assert source.take([]).images.shape == (0, 1, 2, 2) == part.take([]).images.shape
    assert locate(source.ids, [190, 0, 190], where="x").tolist() == [19, 0, 19]


def test_unit_images() -> None:
    images = np.array([0, 51, 255], np.uint8)
    assert unit_images(images).dtype == np.float32 and unit_images(images).tolist() == pytest.approx([0, 0.2, 1])
    for kind in (np.float32, np.float64):
        floats = np.zeros(3, kind)
        assert unit_images(floats) is floats
    with pytest.raises(BadData):
        unit_images(np.zeros(3, np.int64))


def test_pick_split() -> None:
    assert pick_split(["train", "test"], None, where="x") == "test"
    assert pick_split(["train", "val"], None, where="x") == "val"
    assert pick_split(["only"], None, where="x") == "only"
    with pytest.raises(UnknownName, match="did you mean train"):
        pick_split(["train", "test"], "trian", where="x")
    with pytest.raises(BadValue, match="say which"):
        pick_split(["a", "b"], None, where="x")


def test_fingerprint_of_arrays_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(12, dtype=np.uint8)
    assert fingerprint.of_array(array) != fingerprint.of_array(array.reshape(3, 4))
    assert fingerprint.of_array(array) != fingerprint.of_array(array.view(np.int8))
    assert fingerprint.of_array(array.reshape(3, 4).T) == fingerprint.of_array(array.reshape(3, 4).T.copy())
    assert fingerprint.digest("ab", "c") != fingerprint.digest("a", "bc")
    assert len(fingerprint.of_array(np.zeros(0))) == 16
    file = tmp_path / "x"
    file.write_bytes(bytes(1000))
    whole = fingerprint.of_file(file)
    monkeypatch.setattr(fingerprint, "WHOLE", 100)  # from here on files count as large
    monkeypatch.setattr(fingerprint, "BLOCK", 10)
    sampled = fingerprint.of_file(file)
    file.write_bytes(bytes(999) + b"x")
    assert len({whole, sampled, fingerprint.of_file(file)}) == 3  # the last block counts
    file.write_bytes(bytes(1001))
    assert fingerprint.of_file(file) != sampled
    assert fingerprint.of_files(tmp_path, ["x"]) == fingerprint.of_files(tmp_path, ["x"])
    with pytest.raises(BadFile, match="does not exist"):
        fingerprint.of_file(tmp_path / "y")


GOOD = np.full((4, 3, 5, 5), 0.5, np.float32)
LABELS = np.arange(4)


def changed(value: float, kind: type = np.float32) -> np.ndarray:
    images = GOOD.astype(kind)
    images[2, 1, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (changed(np.nan), LABELS, r"sample 102 of x holds the pixel nan"),
        (changed(np.inf), LABELS, r"sample 102 of x holds the pixel inf"),
        (changed(-np.inf), LABELS, r"sample 102 of x holds the pixel -inf"),
        (changed(1.0001), LABELS, r"sample 102 .*1\.0001(.|\n)*clip"),
        (changed(200), LABELS, r"sample 102 .*200(.|\n)*Divide them by 255"),
        (changed(-2.1, np.float64), LABELS, r"sample 102 .*-2\.1(.|\n)*normalised"),
        (GOOD.astype(np.int64), LABELS, r"int64(.|\n)*astype\(np.uint8\)"),
        (GOOD.astype(np.uint16), LABELS, r"uint16"),
        (GOOD.astype(bool), LABELS, r"boolean"),
        (GOOD.astype(complex), LABELS, r"complex"),
        (GOOD.astype(str), LABELS, r"<U"),
        (GOOD[:, 0], LABELS, r"\(4, 5, 5\)(.|\n)*images\[:, None\]"),
        (GOOD[0, 0], LABELS, r"\(5, 5\)"),
        (GOOD.transpose(0, 2, 3, 1), LABELS, r"channels come last(.|\n)*transpose\(0, 3, 1, 2\)"),
        (GOOD[:0], LABELS[:0], r"empty"),
        (GOOD[:, :, :0], LABELS, r"empty"),
        (GOOD, LABELS[:3], r"4 images and 3 labels"),
        (GOOD, LABELS - 1, r"sample 100 of x has the label -1"),
        (GOOD, LABELS.astype(float), r"float64(.|\n)*astype\(np.int64\)"),
        (GOOD, LABELS > 1, r"bool"),
        (GOOD, np.eye(4), r"one-hot(.|\n)*argmax"),
        (GOOD, LABELS[:, None], r"reshape\(-1\)"),
        (GOOD, LABELS + 1, r"sample 103 of x has the label 4 where there are 4 classes"),
    ],
)
def test_what_is_refused(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(BadData) as caught:
        check_images(images, labels, where="x", ids=np.arange(100, 104), num_classes=4)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("images", [GOOD, GOOD.astype(np.float64), GOOD.astype(np.uint8), changed(0), changed(1)])
def test_what_passes(images: np.ndarray) -> None:
    check_images(images, LABELS, where="x", num_classes=4)
    check_images(images, LABELS.astype(np.uint8), where="x")


def test_channels_first() -> None:
    assert channels_first(np.zeros((2, 5, 4)), where="x").shape == (2, 1, 5, 4)
    assert channels_first(np.zeros((2, 3, 5, 4)), where="x").shape == (2, 3, 5, 4)
    assert channels_first(np.zeros((2, 5, 4, 3)), where="x").shape == (2, 3, 5, 4)
    for shape, message in (((2, 3, 5, 1), "first or last"), ((2, 5, 5, 4), "size 1 or 3"), ((2, 5), "reshape")):
        with pytest.raises(BadData, match=message):
            channels_first(np.zeros(shape), where="x")
