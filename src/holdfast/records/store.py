"""A run folder while it is being written: append-only, flushed as it goes, resumed where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.records.document import check_same, read_document
from holdfast.records.files import output_folder, storing, write_atomic
from holdfast.records.known import Known, Outcome, within
from holdfast.records.lines import append, locked, repaired, unbuffered, whole, write
from holdfast.records.schema import Record, RunInfo, Session, Summary
from holdfast.records.shard import SHARD_POINTS, SHARDS, shard_files
from holdfast.records.turns import unshared

RUN, RECORDS, POINTS, SESSIONS = "run.json", "records.jsonl", "points.raw", "sessions.jsonl"
FINAL_POINTS, GALLERY, SUMMARY, REPORT = "points.safetensors", "gallery.safetensors", "summary.json", "report.html"

_IDENTITY = ("plan", "stages", "draws", "threat", "eps", "curve", "seed", "model", "data")


class Store(Known):
    """The records and points of one run, open for appending by one process.

    A point is written before the record that refers to it, and a record is one line, so that a kill at any moment loses
    at most what was not appended yet: a torn last line, and points without a record, are cut off on resume. What other
    processes of a run left in files of their own (`holdfast.records.shard`) is taken over then.
    """

    def __init__(self, folder: Path, info: RunInfo) -> None:
        """Opens ``folder`` for this run: creates it, or resumes it if it holds the same run.

        Raises:
            PlanMismatch: the folder holds another run, or something that is no run.
            StorageError: it cannot be written, or another process is writing to it.
            BadFile: it was damaged by more than a kill.
        """
        super().__init__()
        self.folder = folder
        self.info = info
        self._count = 0
        with storing(folder), ExitStack() as opened:
            output_folder(folder)
            if not (folder / RUN).exists() and any(not _ours(path) for path in folder.iterdir()):
                raise PlanMismatch(f"{folder} is not empty and holds no run", hint="give a new folder with --out")
            self._lines = opened.enter_context(locked(folder / RECORDS))
            if (folder / RUN).exists():
                self.info = same_run(folder, info)
            else:
                write_atomic(folder / RUN, [info.model_dump_json(indent=2).encode()])
            self._past_seconds, self.past_discarded = _past(folder)  # by a file time that the repair changes
            for record in repaired(folder / RECORDS, Record):
                self.note(record)
            self._points = opened.enter_context(unbuffered(folder / POINTS))
            size = self._count * point_bytes(self.info)
            if self._points.tell() < size:
                raise BadFile(
                    f"{folder / POINTS} is shorter than its records say",
                    hint="the folder was changed by hand: start again in a new one",
                )
            self._points.truncate(size)
            self._points.seek(0, os.SEEK_END)
            self._absorb(folder.glob(SHARDS))
            for stray in folder.glob(SHARD_POINTS):  # of a pair whose other file is removed already
                stray.unlink()
            self._started = time.time()
            self._session({"started": self._started})
            opened.pop_all()

    def append(self, record: Record, point: np.ndarray | None = None) -> None:
        """Writes one finished record, its point first. A point that a search's own record holds is not written again."""
        held = self.held.get((record.stage, record.eps, record.id), {}).get(record.search)
        with storing(self.folder):
            if held is not None:
                record = record.model_copy(update={"point": held})
            elif point is not None:
                record = record.model_copy(update={"point": self._count})
                write(self._points, np.ascontiguousarray(point, dtype=self.info.model.dtype).tobytes())
            append(self._lines, record)
        self.note(record)

    def hand_over(self) -> None:
        """The counterpart of `holdfast.records.shard.Shard.hand_over`: what is appended here is where it belongs."""

    def take_over(self, names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Moves what other processes appended to their files into those of the run.

        Args:
            names: of the files; ``outcomes``: what is in them, to see that none is missing.

        Raises:
            StorageError: they are not all here.
        """
        shards = [shard_files(self.folder, name)[0] for name in names]
        with storing(self.folder):
            if not all(path.exists() for path in shards):
                raise unshared(self.folder)
            self._absorb(shards)
        if not all(outcome.id in self.judged(outcome.stage, outcome.eps) for outcome in outcomes):
            raise unshared(self.folder)

    def finish(self, discarded: int) -> float:
        """Ends the session in good order; returns the wall seconds of all sessions together."""
        with storing(self.folder):
            self._flush()
        seconds = time.time() - self._started
        self._session({"started": self._started, "seconds": seconds, "discarded": discarded})
        return self._past_seconds + seconds

    def close(self) -> None:
        """Releases the folder. What is appended is already in the files."""
        self._points.close()
        self._lines.close()

    def note(self, record: Record) -> None:
        """Takes in a record."""
        if record.point is not None:
            self._count = max(self._count, record.point + 1)
        super().note(record)

    def _absorb(self, shards: Iterable[Path]) -> None:
        """Appends the records of these files with their points, and removes them. A kill in between loses nothing."""
        item = point_bytes(self.info)
        for lines in sorted(shards):
            _, points = shard_files(self.folder, lines.name.split(".")[1])
            with locked(lines), points.open("rb") as images:
                for record in repaired(lines, Record):
                    if self.has(record):
                        continue
                    point = None
                    if record.point is not None:
                        images.seek(record.point * item)
                        raw = images.read(item)
                        if len(raw) < item:  # the host went down before it was on the disk: it is done again
                            break
                        point = np.frombuffer(raw, dtype=self.info.model.dtype)
                    self.append(record.model_copy(update={"point": None}), point)
            self._flush()
            lines.unlink()
            points.unlink()

    def _flush(self) -> None:
        for file in (self._points, self._lines):
            os.fsync(file.fileno())

    def _session(self, line: dict[str, float]) -> None:
        with storing(self.folder), (self.folder / SESSIONS).open("a") as file:
            file.write(json.dumps(line) + "\n")


def reached(record: Record, radii: Sequence[float]) -> float:
    """The smallest radius of a run, of ``radii`` ascending, at which a fooled record counts.

    A point may lie nearer than the radius that it was searched in: then it counts at every radius that allows it.
    """
    inside = (radius for radius in radii if within(record.distance, radius) or radius >= record.eps)
    return next(inside, record.eps)


def point_bytes(info: RunInfo) -> int:
    """The size of one stored point."""
    return int(np.prod(info.data.shape)) * np.dtype(info.model.dtype).itemsize


def _ours(path: Path) -> bool:
    """Whether a kill before ``run.json`` was written can have left this behind."""
    return path.name.startswith(f".{RUN}.") or (path.name == RECORDS and not path.stat().st_size)


def same_run(folder: Path, info: RunInfo) -> RunInfo:
    """What the folder says of its run, if that is the run of ``info``.

    Raises:
        PlanMismatch: it is another one; the message names the first setting that differs.
    """
    found = read_info(folder)
    check_same(folder, found, info, _IDENTITY)
    return found


def _past(folder: Path) -> tuple[float, int]:
    """Wall seconds and discarded evaluations of the sessions before this one; a killed one lasted to its last record."""
    path = folder / SESSIONS
    text = path.read_bytes() if path.exists() else b""
    seconds: dict[float, float] = {}
    discarded = 0
    for line in text.splitlines():
        try:
            session = Session.model_validate_json(line)
        except ValidationError:
            continue  # the torn last line of a session that was killed
        seconds[session.started] = session.seconds
        discarded += session.discarded
    missing = b"\n" if text and not text.endswith(b"\n") else b""
    if seconds and not seconds[last := max(seconds)]:
        seconds[last] = max(0.0, (folder / RECORDS).stat().st_mtime - last)
        missing += json.dumps({"started": last, "seconds": seconds[last]}).encode() + b"\n"
    with path.open("ab") as file:
        file.write(missing)
    return sum(seconds.values()), discarded


def read_info(folder: Path) -> RunInfo:
    """What a run folder says it is.

    Raises:
        BadFile: there is no run, or its file is damaged or of a newer version.
    """
    return read_document(folder / RUN, RunInfo, hint="give the folder that was the --out of an audit")


def read_summary(folder: Path) -> Summary:
    """The headline numbers of a finished run.

    Raises:
        BadFile: the run is not finished, or its file is damaged or of a newer version.
    """
    return read_document(folder / SUMMARY, Summary, hint="run the same audit again: it goes on where it stopped")


def read_records(folder: Path) -> Iterator[Record]:
    """All whole records of a run folder; a torn last line is passed over. Changes nothing."""
    return whole(folder / RECORDS, Record)
