"""A part of a run in a folder of its own: ``run.json``, ``outcomes.jsonl``, which grows as it goes, ``summary.json``.

Where several processes share the work, each beside the first appends to ``outcomes.RANK-TURN.jsonl`` files, whose lines the
first takes over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel

from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.records.column import Keys
from holdfast.records.files import output_folder, storing, write_atomic
from holdfast.records.lines import Line, append, locked, repaired, whole
from holdfast.records.schema import SCHEMA_VERSION
from holdfast.records.turns import Turns, unshared

RUN, OUTCOMES, SUMMARY, SAMPLES = "run.json", "outcomes.jsonl", "summary.json", "samples.safetensors"
SHARDS = "outcomes.*.jsonl"

_NOT_IDENTITY = {"model": {"device", "name"}, "data": {"name"}}

Document = TypeVar("Document", bound=BaseModel)


class PartStore(Generic[Line]):
    """The folder of a part, open for appending by one process; ``done``: the keys of the lines that are there.

    The last entry of a key is a number, of an image or a chunk of them.
    """

    def __init__(
        self,
        folder: Path,
        info: BaseModel,
        *,
        identity: tuple[str, ...],
        kind: type[Line],
        key: Callable[[Line], tuple[Any, ...]],
    ) -> None:
        """Opens ``folder``, or resumes it if it holds the same part; takes over what other processes left behind.

        Args:
            info: what was asked for; ``identity``: its fields that make another run.
            kind: of a line; ``key``: what a line is about.

        Raises:
            PlanMismatch: it holds another run.
            StorageError: it cannot be written, or another process is writing to it.
            BadFile: it was damaged by more than a kill.
        """
        self.folder, self._kind, self._key = folder, kind, key
        self.done = Keys()
        with storing(folder), ExitStack() as opened:
            output_folder(folder.parent)
            output_folder(folder)
            self._lines = opened.enter_context(locked(folder / OUTCOMES))
            if (folder / RUN).exists():
                same_part(folder, info, identity)
            else:
                write_atomic(folder / RUN, [info.model_dump_json(indent=2).encode()])
            self.done.update(key(line) for line in repaired(folder / OUTCOMES, kind))
            self._absorb(folder.glob(SHARDS))
            opened.pop_all()

    def append(self, line: Line) -> None:
        """Writes one line."""
        with storing(self.folder):
            append(self._lines, line)
        self.done.add(self._key(line))

    def hand_over(self) -> None:
        """The counterpart of `PartShard.hand_over`: what is appended here is where it belongs."""

    def take_over(self, names: Sequence[str]) -> None:
        """Moves what other processes appended to the files of these names into that of the part.

        Raises:
            StorageError: they are not all here.
        """
        shards = [self.folder / SHARDS.replace("*", name) for name in names]
        with storing(self.folder):
            if not all(path.exists() for path in shards):
                raise unshared(self.folder)
            self._absorb(shards)

    def close(self) -> None:
        """Releases the folder. What is appended is already in the files."""
        self._lines.close()

    def _absorb(self, shards: Iterable[Path]) -> None:
        """Appends the lines of these files, and removes them. A kill in between loses nothing."""
        for path in sorted(shards):
            with locked(path):
                for line in repaired(path, self._kind):
                    if self._key(line) not in self.done:
                        self.append(line)
            os.fsync(self._lines.fileno())
            path.unlink()


class PartShard(Generic[Line]):
    """The same folder for a process beside the first, which reads what was ``done`` and adds a file at a time."""

    def __init__(
        self,
        folder: Path,
        info: BaseModel,
        rank: int,
        *,
        identity: tuple[str, ...],
        kind: type[Line],
        key: Callable[[Line], tuple[Any, ...]],
    ) -> None:
        """Reads what is there. The first process has opened the folder, and nothing is appended meanwhile.

        Raises:
            PlanMismatch: this process would do another run than the first.
            StorageError: it does not see the folder of the first.
        """
        if not (folder / RUN).exists():
            raise unshared(folder)
        for field, old, new in _differing(folder, info, identity):
            raise PlanMismatch(
                f"process {rank} would do another run than process 0: its {field} is {new}, and not {old}",
                hint="every process builds the model and reads the data anew: give it weights, or seed what its factory "
                "draws, and give all hosts the same files",
            )
        self.folder, self._key = folder, key
        self.done = Keys()
        self.done.update(key(line) for line in whole(folder / OUTCOMES, kind))
        self._turns = Turns(folder, (SHARDS,), rank)

    def append(self, line: Line) -> None:
        """Writes one line."""
        with storing(self.folder):
            append(self._turns.files()[0], line)
        self.done.add(self._key(line))

    def hand_over(self) -> str | None:
        """Closes the file that is open; returns its name, None if nothing was appended."""
        return self._turns.hand_over()

    def take_over(self, names: Sequence[str]) -> None:
        """The counterpart of `PartStore.take_over`, for whom the first process does not work: nothing."""

    def close(self) -> None:
        """Releases the file. What is appended is already in it."""
        self._turns.close()


Part: TypeAlias = PartStore[Line] | PartShard[Line]
"""A part of a run, as the first process or another one has it open."""


def part(
    folder: Path,
    info: BaseModel,
    rank: int,
    *,
    identity: tuple[str, ...],
    kind: type[Line],
    key: Callable[[Line], tuple[Any, ...]],
) -> Part[Line]:
    """The part in ``folder`` for the process of that rank, see `PartStore` and `PartShard`. Raises as they do."""
    if rank:
        return PartShard(folder, info, rank, identity=identity, kind=kind, key=key)
    return PartStore(folder, info, identity=identity, kind=kind, key=key)


def same_part(folder: Path, info: BaseModel, identity: tuple[str, ...]) -> None:
    """Refuses a folder that holds another run than that of ``info``. Raises PlanMismatch."""
    for field, old, new in _differing(folder, info, identity):
        raise PlanMismatch(
            f"{folder} holds another run: its {field} is {old}, now it is {new}",
            hint="give a new folder with --out, or run with the settings of that run to resume it",
        )


def finished(folder: Path, info: BaseModel, identity: tuple[str, ...], kind: type[Document]) -> Document | None:
    """The summary of the run in ``folder``, None if there is none yet. Raises PlanMismatch if it is of another run."""
    if not (folder / SUMMARY).exists():
        return None
    same_part(folder, info, identity)
    return read_document(folder / SUMMARY, kind)


def read_document(path: Path, kind: type[Document], *, missing: str = "run the same audit to its end") -> Document:
    """One of the JSON documents. Raises BadFile where it is ``missing`` (the hint), damaged, or of a newer version."""
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BadFile(f"{path} was written by a newer holdfast (schema {version})", hint="upgrade holdfast")
        return kind.model_validate_json(text)
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint=missing) from None
    except (ValueError, AttributeError, RecursionError, OSError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint="start again in a new folder") from None


def _differing(folder: Path, info: BaseModel, identity: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """The fields in which the run of ``folder`` is another one than that of ``info``: name, there, here."""
    found = read_document(folder / RUN, type(info))
    for field in identity:
        old, new = (_identity(each, field) for each in (found, info))
        if old != new:
            yield field, json.dumps(old)[:160], json.dumps(new)[:160]


def _identity(info: BaseModel, field: str) -> object:
    value = info.model_dump(mode="json")[field]
    return {k: v for k, v in value.items() if k not in _NOT_IDENTITY[field]} if field in _NOT_IDENTITY else value
