"""The part of a run that one of several processes works on: files of its own, until the first process takes them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdfast.records.files import storing
from holdfast.records.known import Known, Outcome
from holdfast.records.lines import append, whole, write
from holdfast.records.schema import Record, RunInfo
from holdfast.records.turns import Turns, unshared

SHARDS, SHARD_POINTS = "records.*.jsonl", "points.*.raw"


def shard_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The records and the points of the shard of that name."""
    return folder / f"records.{name}.jsonl", folder / f"points.{name}.raw"


class Shard(Known):
    """A run's folder, of which this process reads the records and to which it adds a pair of files at a time.

    A pair begins with the first record after the last `hand_over`; `holdfast.records.store.Store.take_over` ends it.
    """

    def __init__(self, folder: Path, info: RunInfo, rank: int) -> None:
        """Reads what is known so far. Raises StorageError if this process does not see the folder of the first one."""
        super().__init__()
        self.folder, self.info = folder, info
        self._turns = Turns(folder, (SHARD_POINTS, SHARDS), rank)
        if not (folder / "records.jsonl").exists():
            raise unshared(folder)
        for record in whole(folder / "records.jsonl", Record):
            self.note(record)

    def append(self, record: Record, point: np.ndarray | None = None) -> None:
        """Writes one finished record, its point first. A point that a search's own record holds is not written again."""
        held = record.search in self.held.get((record.stage, record.eps, record.id), {})
        with storing(self.folder):
            points, lines = self._turns.files()
            if point is not None and not held:
                raw = np.ascontiguousarray(point, dtype=self.info.model.dtype).tobytes()
                record = record.model_copy(update={"point": points.tell() // len(raw)})
                write(points, raw)
            append(lines, record)
        self.note(record)

    def hand_over(self) -> str | None:
        """Closes the pair of files that is open; returns its name, None if nothing was appended."""
        return self._turns.hand_over()

    def take_over(self, names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Learns the verdicts that the other processes reached."""
        for outcome in outcomes:
            self.learn(outcome)

    def close(self) -> None:
        """Releases the files. What is appended is already in them."""
        self._turns.close()
