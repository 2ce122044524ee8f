"""Files of JSON lines that are appended to while a run goes on, and survive a kill at any moment."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from holdfast.foundation.errors import BadFile, StorageError

Line = TypeVar("Line", bound=BaseModel)


def unbuffered(path: Path) -> FileIO:
    """``path``, opened for appending; closing it on a full disk has nothing left to write, and cannot fail again."""
    return path.open("ab", buffering=0)


def locked(path: Path) -> FileIO:
    """The same, for one process at a time. Raises StorageError if another one holds it."""
    file = unbuffered(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StorageError(
            f"another process is writing to {path.parent}",
            hint="wait until it has ended, or give another folder with --out",
        ) from None
    return file


def write(file: FileIO, data: bytes) -> None:
    """All of ``data``: an unbuffered file may take less at a time."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def append(file: FileIO, line: BaseModel) -> None:
    """Writes one line."""
    write(file, line.model_dump_json(exclude_none=True).encode() + b"\n")


def repaired(path: Path, kind: type[Line]) -> Iterator[Line]:
    """All whole lines of the file; a torn last one is cut off.

    Raises:
        BadFile: a line is damaged that is not the last.
    """
    good = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            try:
                if not line.endswith(b"\n"):
                    break
                found = kind.model_validate_json(line)
            except ValidationError:
                if file.read(1):
                    raise BadFile(
                        f"line {number} of {path} is damaged, and more lines follow it",
                        hint="cut the file off before that line, or start again in a new folder",
                    ) from None
                break
            good += len(line)
            yield found
        file.truncate(good)


def whole(path: Path, kind: type[Line]) -> Iterator[Line]:
    """All whole lines of the file; a torn last one is passed over. Changes nothing."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise BadFile(
                        f"line {number} of {path} is no record: {error.errors()[0]['msg']}", hint="start a new run"
                    ) from None
    except FileNotFoundError:
        raise BadFile(f"{path} does not exist", hint="give the folder that was the --out of an audit") from None
