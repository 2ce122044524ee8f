"""A part of a run in a folder of its own: ``run.json``, ``outcomes.jsonl``, which grows as it goes, ``summary.json``.

Where several processes share the work, each beside the first appends to ``outcomes.RANK-TURN.jsonl`` files, whose lines the
first takes over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias

from pydantic import BaseModel

from holdfast.foundation.errors import PlanMismatch
from holdfast.records.column import Keys
from holdfast.records.document import Document, check_same, differing, read_document
from holdfast.records.files import output_folder, storing, write_atomic
from holdfast.records.lines import Line, append, locked, repaired, whole
from holdfast.records.turns import Turns, unshared

RUN, OUTCOMES, SUMMARY, SAMPLES = "run.json", "outcomes.jsonl", "summary.json", "samples.safetensors"
SHARDS = "outcomes.*.jsonl"


@dataclass(frozen=True)
class Layout(Generic[Line]):
    """What a kind of part holds.

    Args:
        kind: of a line.
        key: what a line is about; its last entry is a number, of an image or a chunk of them.
        identity: the fields of what was asked for that make another run.
    """

    kind: type[Line]
    key: Callable[[Line], tuple[Any, ...]]
    identity: tuple[str, ...]


class PartStore(Generic[Line]):
    """The folder of a part, open for appending by one process; ``done``: the keys of the lines that are there."""

    def __init__(self, folder: Path, info: BaseModel, layout: Layout[Line]) -> None:
        """Opens ``folder``, or resumes it if it holds the same part; takes over what other processes left behind.

        ``info``: what was asked for.

        Raises:
            PlanMismatch: it holds another run.
            StorageError: it cannot be written, or another process is writing to it.
            BadFile: it was damaged by more than a kill.
        """
        self.folder, self._layout = folder, layout
        self.done = Keys()
        with storing(folder), ExitStack() as opened:
            output_folder(folder.parent)
            output_folder(folder)
            self._lines = opened.enter_context(locked(folder / OUTCOMES))
            if (folder / RUN).exists():
                same_part(folder, info, layout)
            else:
                write_atomic(folder / RUN, [info.model_dump_json(indent=2).encode()])
            self.done.update(layout.key(line) for line in repaired(folder / OUTCOMES, layout.kind))
            self._absorb(folder.glob(SHARDS))
            opened.pop_all()

    def append(self, line: Line) -> None:
        """Writes one line."""
        with storing(self.folder):
            append(self._lines, line)
        self.done.add(self._layout.key(line))

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
                for line in repaired(path, self._layout.kind):
                    if self._layout.key(line) not in self.done:
                        self.append(line)
            os.fsync(self._lines.fileno())
            path.unlink()


class PartShard(Generic[Line]):
    """The same folder for a process beside the first, which reads what was ``done`` and adds a file at a time."""

    def __init__(self, folder: Path, info: BaseModel, layout: Layout[Line], rank: int) -> None:
        """Reads what is there. The first process has opened the folder, and nothing is appended meanwhile.

        Raises:
            PlanMismatch: this process would do another run than the first.
            StorageError: it does not see the folder of the first.
        """
        if not (folder / RUN).exists():
            raise unshared(folder)
        for field, old, new in differing(read_document(folder / RUN, type(info)), info, layout.identity):
            raise PlanMismatch(
                f"process {rank} would do another run than process 0: its {field} is {new}, and not {old}",
                hint="every process builds the model and reads the data anew: give it weights, or seed what its factory "
                "draws, and give all hosts the same files",
            )
        self.folder, self._layout = folder, layout
        self.done = Keys()
        self.done.update(layout.key(line) for line in whole(folder / OUTCOMES, layout.kind))
        self._turns = Turns(folder, (SHARDS,), rank)

    def append(self, line: Line) -> None:
        """Writes one line."""
        with storing(self.folder):
            append(self._turns.files()[0], line)
        self.done.add(self._layout.key(line))

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


def part(folder: Path, info: BaseModel, layout: Layout[Line], rank: int) -> Part[Line]:
    """The part in ``folder`` for the process of that rank, see `PartStore` and `PartShard`. Raises as they do."""
    return PartShard(folder, info, layout, rank) if rank else PartStore(folder, info, layout)


def same_part(folder: Path, info: BaseModel, layout: Layout[Any]) -> None:
    """Refuses a folder that holds another run than that of ``info``. Raises PlanMismatch."""
    check_same(folder, read_document(folder / RUN, type(info)), info, layout.identity)


def finished(folder: Path, info: BaseModel, layout: Layout[Any], kind: type[Document]) -> Document | None:
    """The summary of the run in ``folder``, None if there is none yet. Raises PlanMismatch if it is of another run."""
    if not (folder / SUMMARY).exists():
        return None
    same_part(folder, info, layout)
    return read_document(folder / SUMMARY, kind)
