"""Decoding ahead: the same samples in any order, a bounded window, errors that name the sample, and an end at once."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holdfast.data import ahead as module
from holdfast.data.ahead import Ahead, workers_for
from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.folder import Folder
from holdfast.data.load import load
from holdfast.data.source import Batch, subset
from holdfast.foundation.errors import BadData, BadFile, BadValue

DRAW = np.random.default_rng(0)
ARRAYS = from_pair(DRAW.integers(0, 256, (40, 3, 66, 66), dtype=np.uint8), np.arange(40) % 4, ids=np.arange(40) * 3)


@dataclass
class Slow:
    """Arrays that are handed out by threads: counts what is asked of it, fails at some samples and hangs at others."""

    arrays: Arrays = ARRAYS
    concurrent: bool = True
    broken: tuple[int, ...] = ()
    hanging: tuple[int, ...] = ()
    seconds: float = 0.0
    free: threading.Event = field(default_factory=threading.Event)
    asked: list[int] = field(default_factory=list)
    name = "slow"
    class_names = ARRAYS.class_names
    shape = ARRAYS.shape
    ids = ARRAYS.ids

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: np.ndarray | Sequence[int]) -> Batch:
        for each in ids:
            self.asked.append(int(each))
            if each in self.hanging:
                self.free.wait(20)
            if each in self.broken:
                raise BadData(f"sample {each} of slow is broken", hint="mend it")
        time.sleep(self.seconds)
        return self.arrays.take(ids)

    def fingerprint(self) -> str:
        return self.arrays.fingerprint()


def same(one: Batch, other: Batch) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other))


def decoders() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "holdfast decoder"]


def until(holds) -> bool:
    """Whether that comes to hold within some seconds."""
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert until(lambda: not decoders())


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_gives_what_the_source_gives(workers: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    expected = draw.choice(ARRAYS.ids, 90)  # some twice
    with Ahead(Slow(), workers=workers) as ahead:
        ahead.expect(expected)
        for start in range(0, 90, 7):
            part = expected[start : start + 7]
            part = part[draw.random(len(part)) < 0.8]  # some are not asked for
            if seed % 2:
                part = np.append(part, draw.choice(ARRAYS.ids, 2))  # others out of turn
            assert same(ahead.take(part), ARRAYS.take(part))
        with pytest.raises(BadValue, match="no sample 1"):
            ahead.take([0, 1])


def test_each_expected_sample_is_decoded_once_and_before_it_is_asked_for() -> None:
    source = Slow()
    with Ahead(source, workers=2) as ahead:
        ahead.expect(source.ids)
        assert until(lambda: len(source.asked) == 40)
        for each in source.ids.tolist():
            ahead.take([each])
    assert sorted(source.asked) == source.ids.tolist()


def test_no_more_than_the_window_is_decoded_ahead(monkeypatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 5 * 3 * 66 * 66 + 1)
    source, read = Slow(), []
    with Ahead(source, workers=2) as ahead:
        assert ahead.most == 5
        ahead.expect(read.append(each) or each for each in source.ids.tolist())
        assert until(lambda: len(source.asked) == 5) and len(read) == 5
        ahead.take(source.ids[:2])
        assert until(lambda: len(source.asked) == 7) and len(read) == 7
        ahead.take(source.ids[4:5])  # 6 and 9 are left out, and what was decoded for them is gone
        assert until(lambda: len(source.asked) == 10) and set(ahead._tasks) == set(source.ids[5:10].tolist())


def test_an_error_is_told_when_its_sample_is_asked_for() -> None:
    source = Slow(broken=(6,))
    with Ahead(source, workers=2) as ahead:
        ahead.expect(source.ids)
        assert same(ahead.take([0, 3]), ARRAYS.take([0, 3]))
        for _ in range(2):
            with pytest.raises(BadData, match="sample 6 of slow"):
                ahead.take([6, 9])
        assert same(ahead.take([9, 12]), ARRAYS.take([9, 12]))


def test_a_decode_that_hangs_is_named_and_the_others_go_on() -> None:
    source = Slow(hanging=(6,))
    with Ahead(source, workers=1, patience=0.1) as ahead:
        ahead.expect(source.ids)
        assert same(ahead.take([0, 3]), ARRAYS.take([0, 3]))
        with pytest.raises(BadFile, match=r"sample 6 of slow was not decoded within 0\.1 seconds"):
            ahead.take([6])
        assert same(ahead.take([9, 12]), ARRAYS.take([9, 12]))  # by another thread
        with pytest.raises(BadFile, match="sample 6"):
            ahead.take([15, 6])
        assert source.asked.count(6) == 1  # nobody waits for it again
    source.free.set()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, BadData("another's", hint="none")])
def test_whatever_ends_it_nothing_more_is_decoded(raised) -> None:
    source = Slow(seconds=0.02)
    with pytest.raises(BaseException, match=r"another's|^$"), Ahead(source, workers=2) as ahead:
        ahead.expect(source.ids)
        ahead.take([0])
        raise raised
    assert until(lambda: not decoders()) and len(source.asked) < 8


def test_workers_only_where_they_pay(monkeypatch, tmp_path: Path) -> None:
    for number, side in enumerate((65, 64)):
        for name in "ab":
            file = tmp_path / str(side) / name / "1.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(file)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: range(32), raising=False)
    large, small = (load(tmp_path / str(side)) for side in (65, 64))
    assert isinstance(large, Folder) and workers_for(large) == 8 and workers_for(small) == 0
    assert workers_for(subset(large, 1, 0)) == 8 and workers_for(ARRAYS) == workers_for(subset(ARRAYS, 3, 0)) == 0
    assert workers_for(Slow(concurrent=False)) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert workers_for(large) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert workers_for(large) == 1
    assert not decoders() and same(Ahead(ARRAYS).take([3]), ARRAYS.take([3]))


def test_what_is_asked_for_overtakes_what_is_expected() -> None:
    source = Slow(seconds=0.02)
    with Ahead(source, workers=1) as ahead:
        ahead.expect(source.ids[:30])
        assert same(ahead.take([117]), ARRAYS.take([117]))
        assert len(source.asked) < 5 and 117 in source.asked


def test_a_damaged_file_is_named_with_its_sample(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        file = tmp_path / "a" / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(DRAW.integers(0, 256, (66, 66, 3), dtype=np.uint8)).save(file)
    source = load(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes((tmp_path / "a" / "2.png").read_bytes()[:2000])
    with Ahead(source, workers=2) as ahead:
        ahead.expect(source.ids)
        with pytest.raises(BadFile, match=r"sample 1: .*2\.png is damaged"):
            ahead.take([0, 1])
        assert same(ahead.take([2]), source.take([2]))


def test_threads_share_the_row_groups_of_a_parquet_file(tmp_path: Path, monkeypatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = []
    for image in ARRAYS.images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue()})
    pq.write_table(pa.table({"image": cells, "label": ARRAYS.labels}), tmp_path / "x.parquet", row_group_size=4)
    source, read = load(tmp_path / "x.parquet"), []
    whole = pq.ParquetFile.read_row_group

    def slowly(file, number, **options):
        read.append(number)
        time.sleep(0.01)
        return whole(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", slowly)
    monkeypatch.setattr(module, "IMAGES", 6)  # three row groups at most
    with Ahead(source, workers=3) as ahead:
        ahead.expect(source.ids)
        images = np.concatenate([ahead.take(part).images for part in np.split(source.ids, 20)])
    assert np.array_equal(images, ARRAYS.images)
    assert len(read) < 20 and len(source.held) <= 2
