"""What a process beside the first leaves behind, and how it is taken over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_store import info, opened, point, record

from holdfast.audit.ranks import CHUNK, Alone, shares
from holdfast.foundation.errors import StorageError
from holdfast.records import store
from holdfast.records.known import Outcome
from holdfast.records.shard import SHARD_POINTS, SHARDS, Shard, shard_files


def begun(folder: Path) -> tuple[Shard, str]:
    """A run with three records of the first process, and a shard with five of the second, which is handed over."""
    first = opened(folder)
    first.append(record(0, stage="clean"))
    first.append(record(3, final=False, search=1, fooled=True), point(0.125))
    first.append(record(4, fooled=True), point(0.25))
    first.close()
    shard = Shard(folder, info(), 1)
    assert set(shard.judged("clean", 0.0)) == {0} and set(shard.broken) == {4}
    shard.append(record(1, fooled=True), point(0.5))
    shard.append(record(2, final=False, search=1, fooled=True), point(0.75))
    shard.append(record(2, final=False, search=0))
    shard.append(record(2, search=1, fooled=True), point(0.75))
    shard.append(record(3, search=1, fooled=True))  # its point is among the first process's
    name = shard.hand_over()
    assert name == "1-0" and shard.hand_over() is None
    return shard, name


def whole(folder: Path) -> None:
    """Every record once, each with its point, and nothing else in the folder."""
    kept = list(store.read_records(folder))
    assert max(Counter((one.stage, one.id, one.search, one.final) for one in kept).values()) == 1
    assert {one.id for one in kept if one.final and one.stage == "pgd"} == {1, 2, 3, 4}
    raw = np.fromfile(folder / store.POINTS, dtype=np.float32).reshape(-1, 6)
    assert {one.id: raw[one.point, 0] for one in kept if one.point is not None} == {4: 0.25, 1: 0.5, 2: 0.75, 3: 0.125}
    assert not [*folder.glob(SHARDS), *folder.glob(SHARD_POINTS)]


def test_a_shard_is_taken_over(tmp_path: Path) -> None:
    shard, name = begun(tmp_path)
    first = opened(tmp_path)  # as a later run does by itself
    first.close()
    whole(tmp_path)
    shard.append(record(0))
    assert shard.hand_over() == "1-1"
    first = opened(tmp_path)
    assert set(first.judged("pgd", 0.1)) == {0, 1, 2, 3, 4}
    shard.append(record(5))
    first.take_over([shard.hand_over() or ""], [Outcome.of(record(5))])
    assert 5 in first.judged("pgd", 0.1)
    shard.take_over([], [Outcome.of(record(6, fooled=True))])
    assert shard.broken[6] == 0.1
    with pytest.raises(StorageError, match="do not see the same files"):
        first.take_over([], [Outcome.of(record(7))])
    with pytest.raises(StorageError, match="do not see the same files"):
        first.take_over([name], [])
    first.close()
    with pytest.raises(StorageError, match="do not see the same files"):
        Shard(tmp_path / "elsewhere", info(), 1)


def test_killed_while_it_is_taken_over(tmp_path: Path) -> None:
    """After any number of its records, or with one of its files removed."""
    for cut in range(6):
        folder = tmp_path / str(cut)
        _, name = begun(folder)
        lines, points = shard_files(folder, name)
        left = lines.read_bytes(), points.read_bytes()
        first = opened(folder)
        first.close()
        kept = (folder / store.RECORDS).read_bytes().splitlines(keepends=True)
        assert len(kept) == 8
        (folder / store.RECORDS).write_bytes(b"".join(kept[: 3 + cut]))
        if cut < 5:
            lines.write_bytes(left[0])
        points.write_bytes(left[1])
        opened(folder).close()
        whole(folder)


def test_a_torn_shard(tmp_path: Path) -> None:
    """Half a line is done again, and so is a record whose point did not reach the disk; what comes before them is kept."""
    _, name = begun(tmp_path)
    lines, points = shard_files(tmp_path, name)
    lines.write_bytes(lines.read_bytes()[:-9])
    points.write_bytes(points.read_bytes()[: store.point_bytes(info()) + 3])
    first = opened(tmp_path)
    assert set(first.judged("pgd", 0.1)) == {4, 1} and not [*tmp_path.glob(SHARDS), *tmp_path.glob(SHARD_POINTS)]
    first.close()


def test_a_shard_that_is_being_written(tmp_path: Path) -> None:
    shard, _ = begun(tmp_path)
    shard.append(record(0))
    with pytest.raises(StorageError, match="another process is writing"):
        opened(tmp_path)
    shard.close()
    opened(tmp_path).close()


class One(Alone):
    """One of several processes in one, with counters that they share."""

    def __init__(self, rank: int, world: int, counters: dict[str, int]) -> None:
        self.rank, self.world, self._counters = rank, world, counters


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 53])
@pytest.mark.parametrize("fixed", [0, 5, 60])
def test_every_position_is_dealt_once(world: int, count: int, fixed: int) -> None:
    counters: dict[str, int] = {}
    order = np.random.default_rng(0).permutation(count)
    dealt = [shares(order, fixed, One(rank, world, counters), "x") for rank in range(world)]
    own = [len(each) for each, _ in dealt]
    assert sum(own) == min(count, fixed) and max(own) - min(own) <= 1
    got = [each.tolist() for each, _ in dealt]
    taken = True
    while taken:  # in turn
        taken = False
        for rank, (_, chunks) in enumerate(dealt):
            for chunk in chunks:
                assert len(chunk) <= CHUNK
                got[rank] += chunk.tolist()
                taken = True
                break
    assert sorted(position for each in got for position in each) == list(range(count))
