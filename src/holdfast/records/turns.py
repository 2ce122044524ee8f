"""What a process beside the first writes: files of its own, a new set each turn, until the first process takes them over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from holdfast.foundation.errors import StorageError
from holdfast.records.files import storing
from holdfast.records.lines import locked, unbuffered


class Turns:
    """The files that a process appends to. A set begins with the first use of ``files`` after the last `hand_over`."""

    def __init__(self, folder: Path, patterns: Sequence[str], rank: int) -> None:
        """Opens nothing yet.

        Args:
            patterns: of the files' names, with ``*`` for the name of the set. They are opened in this order; the last one
                is locked while it is open, so that where it lies the others do, too.
        """
        self._folder, self._patterns, self._rank = folder, tuple(patterns), rank
        self._turn = 0
        self._open: tuple[FileIO, ...] = ()

    def files(self) -> tuple[FileIO, ...]:
        """The files of this turn, opened for appending."""
        if not self._open:
            *others, last = (self._folder / pattern.replace("*", self._name) for pattern in self._patterns)
            with ExitStack() as opened:
                first = [opened.enter_context(unbuffered(path)) for path in others]
                self._open = (*first, opened.enter_context(locked(last)))
                opened.pop_all()
        return self._open

    def hand_over(self) -> str | None:
        """Closes the files that are open; returns their set's name, None if nothing was appended."""
        if not self._open:
            return None
        with storing(self._folder):
            for file in self._open:
                os.fsync(file.fileno())
        name = self._name
        self.close()
        self._turn += 1
        return name

    def close(self) -> None:
        """Releases the files. What is appended is already in them."""
        for file in self._open:
            file.close()
        self._open = ()

    @property
    def _name(self) -> str:
        return f"{self._rank}-{self._turn}"


def unshared(folder: Path) -> StorageError:
    """The error of a folder that is another one on another host."""
    return StorageError(
        f"the processes of this run do not see the same files in {folder}",
        hint="give --out a folder on a file system that all hosts share",
    )
