"""The part of a run that one of several processes works on: files of its own, until the first process takes them over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import numpy as np

from holdfast.foundation.errors import StorageError
from holdfast.records.files import storing
from holdfast.records.known import Known, Outcome
from holdfast.records.lines import append, locked, unbuffered, whole, write
from holdfast.records.schema import Record, RunInfo

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
        self.folder, self.info, self.rank = folder, info, rank
        self._turn = self._count = 0
        self._open: tuple[FileIO, FileIO] | None = None
        if not (folder / "records.jsonl").exists():
            raise unshared(folder)
        for record in whole(folder / "records.jsonl", Record):
            self.note(record)

    def append(self, record: Record, point: np.ndarray | None = None) -> None:
        """Writes one finished record, its point first. A point that a search's own record holds is not written again."""
        held = record.search in self.held.get((record.stage, record.eps, record.id), {})
        with storing(self.folder):
            lines, points = self._files()
            if point is not None and not held:
                record = record.model_copy(update={"point": self._count})
                write(points, np.ascontiguousarray(point, dtype=self.info.model.dtype).tobytes())
                self._count += 1
            append(lines, record)
        self.note(record)

    def hand_over(self) -> str | None:
        """Closes the pair of files that is open; returns its name, None if nothing was appended."""
        if self._open is None:
            return None
        with storing(self.folder):
            for file in reversed(self._open):
                os.fsync(file.fileno())
        name = self._name
        self.close()
        self._turn += 1
        return name

    def take_over(self, names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Learns the verdicts that the other processes reached."""
        for outcome in outcomes:
            self.learn(outcome)

    def close(self) -> None:
        """Releases the files. What is appended is already in them."""
        for file in self._open or ():
            file.close()
        self._open = None

    @property
    def _name(self) -> str:
        return f"{self.rank}-{self._turn}"

    def _files(self) -> tuple[FileIO, FileIO]:
        if self._open is None:
            lines, points = shard_files(self.folder, self._name)
            with ExitStack() as opened:
                images = opened.enter_context(unbuffered(points))  # first, so that no records lack their points' file
                self._open, self._count = (opened.enter_context(locked(lines)), images), 0
                opened.pop_all()
        return self._open


def unshared(folder: Path) -> StorageError:
    """The error of a folder that is another one on another host."""
    return StorageError(
        f"the processes of this run do not see the same files in {folder}",
        hint="give --out a folder on a file system that all hosts share",
    )
