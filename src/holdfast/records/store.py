"""A run folder while it is being written: append-only, flushed as it goes, resumed where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from holdfast.foundation.errors import BadFile, PlanMismatch, StorageError
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import SCHEMA_VERSION, Record, RunInfo, Summary

RUN, RECORDS, POINTS, SESSIONS = "run.json", "records.jsonl", "points.raw", "sessions.jsonl"
FINAL_POINTS, GALLERY, SUMMARY, REPORT = "points.safetensors", "gallery.safetensors", "summary.json", "report.html"

_IDENTITY = ("plan", "stages", "threat", "eps", "curve", "seed", "model", "data")
_NOT_IDENTITY = {"model": {"device", "name"}, "data": {"name"}}


class Store:
    """The records and points of one run, open for appending by one process.

    A point is written before the record that refers to it, and a record is one line, so that a kill at any moment loses
    at most what was not appended yet: a torn last line, and points without a record, are cut off on resume.
    """

    def __init__(self, folder: Path, info: RunInfo) -> None:
        """Opens ``folder`` for this run: creates it, or resumes it if it holds the same run.

        Raises:
            PlanMismatch: the folder holds another run, or something that is no run.
            StorageError: it cannot be written, or another process is writing to it.
        """
        self.folder = folder
        self.info = _open_run(folder, info)
        self._item = int(np.prod(self.info.data.shape)) * np.dtype(self.info.model.dtype).itemsize
        with storing(folder):
            self._lock = (folder / RECORDS).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StorageError(
                f"another process is writing to {folder}", hint="wait until it has ended, or give another folder with --out"
            ) from None
        with storing(folder):
            self.records = _repaired(folder / RECORDS)
            stored = max((r.point + 1 for r in self.records if r.point is not None), default=0)
            self._points = (folder / POINTS).open("ab")
            if self._points.tell() < stored * self._item:
                raise BadFile(
                    f"{folder / POINTS} is shorter than its records say",
                    hint="the folder was changed by hand: start again in a new one",
                )
            self._points.truncate(stored * self._item)
            self._points.seek(0, os.SEEK_END)
        self._count = stored
        self.past_seconds, self.past_discarded = _past(folder)
        self.started = time.time()
        self._session({"started": self.started})

    def append(self, record: Record, point: np.ndarray | None = None) -> Record:
        """Writes one finished record, its point first; returns the record with the point's place filled in."""
        with storing(self.folder):
            if point is not None:
                self._points.write(np.ascontiguousarray(point, dtype=self.info.model.dtype).tobytes())
                self._points.flush()
                record = record.model_copy(update={"point": self._count})
                self._count += 1
            self._lock.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
            self._lock.flush()
        return record

    def finish(self, discarded: int) -> float:
        """Closes the session in good order; returns the wall seconds of all sessions together."""
        seconds = time.time() - self.started
        self._session({"started": self.started, "seconds": seconds, "discarded": discarded})
        return self.past_seconds + seconds

    def close(self) -> None:
        """Releases the folder. What is appended is already in the files."""
        self._points.close()
        self._lock.close()

    def _session(self, line: dict[str, float]) -> None:
        with storing(self.folder), (self.folder / SESSIONS).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _open_run(folder: Path, info: RunInfo) -> RunInfo:
    if not folder.exists() or not any(folder.iterdir()):
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN, [info.model_dump_json(indent=2).encode()])
        return info
    if not (folder / RUN).exists():
        raise PlanMismatch(f"{folder} is not empty and holds no run", hint="give a new folder with --out")
    found = read_info(folder)
    for field in _IDENTITY:
        old, new = _identity(found, field), _identity(info, field)
        if old != new:
            raise PlanMismatch(
                f"{folder} holds another run: its {field} is {_short(old)}, now it is {_short(new)}",
                hint="give a new folder with --out, or run with the settings of that run to resume it",
            )
    return found


def _identity(info: RunInfo, field: str) -> object:
    value = info.model_dump(mode="json")[field]
    return {k: v for k, v in value.items() if k not in _NOT_IDENTITY[field]} if field in _NOT_IDENTITY else value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 160 else text[:157] + "..."


def _repaired(path: Path) -> list[Record]:
    """All whole records of the file; what follows the last whole one is cut off."""
    records, good = [], 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                records.append(Record.model_validate_json(line))
            except ValidationError:
                break
            good += len(line)
        rest = file.seek(0, os.SEEK_END) - good
        if rest:
            file.seek(good)
            if file.read().count(b"\n") > 1:
                raise BadFile(
                    f"line {len(records) + 1} of {path} is damaged, and more lines follow it",
                    hint="cut the file off before that line, or start again in a new folder",
                )
            file.truncate(good)
    return records


def _past(folder: Path) -> tuple[float, int]:
    """Wall seconds and discarded evaluations of the sessions before this one; a killed one lasted to its last record."""
    path = folder / SESSIONS
    if not path.exists():
        return 0.0, 0
    sessions: dict[float, tuple[float | None, int]] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        sessions[entry["started"]] = (entry.get("seconds"), entry.get("discarded", 0))
    last = (folder / RECORDS).stat().st_mtime
    starts = sorted(sessions)
    total = 0.0
    for start, following in zip(starts, [*starts[1:], float("inf")]):
        seconds = sessions[start][0]
        # A killed session's end is the file's last change; of those before the last killed one nothing is known.
        total += seconds if seconds is not None else max(0.0, last - start) if following == float("inf") else 0.0
    return total, sum(discarded for _, discarded in sessions.values())


def read_info(folder: Path) -> RunInfo:
    """What a run folder says it is.

    Raises:
        BadFile: there is no run, or its file is damaged or of a newer version.
    """
    return _read_model(folder / RUN, RunInfo, "give the folder that was the --out of an audit")


def read_summary(folder: Path) -> Summary:
    """The headline numbers of a finished run.

    Raises:
        BadFile: the run is not finished, or its file is damaged or of a newer version.
    """
    return _read_model(folder / SUMMARY, Summary, "run the same audit again: it goes on where it stopped")


def _read_model(path: Path, kind, hint: str):
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
        if version is not None and version > SCHEMA_VERSION:
            raise BadFile(f"{path} was written by a newer holdfast (schema {version})", hint="upgrade holdfast")
        return kind.model_validate_json(text)
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint=hint) from None
    except (ValueError, AttributeError, OSError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint=hint) from None


def read_records(folder: Path) -> list[Record]:
    """All whole records of a run folder; a torn last line is passed over. Changes nothing."""
    return list(_lines(folder / RECORDS))


def _lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Record.model_validate_json(line)
                except ValidationError as error:
                    raise BadFile(f"line {number} of {path} is no record: {error.errors()[0]['msg']}", hint="start a new run") from None
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint="give the folder that was the --out of an audit") from None
