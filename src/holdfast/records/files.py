"""Writing files so that nothing is ever half-written, and saying plainly when a disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.foundation.errors import StorageError


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"no space left to write {path}", hint="free some space and run the same command again: it resumes"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"{path} cannot be written: {error.strerror}", hint="give a folder you may write to"
            ) from error
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            raise StorageError(
                f"{path} is not a folder, or lies below something that is none", hint="give another folder with --out"
            ) from error
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}", hint="give another folder with --out"
        ) from error


def write_atomic(path: Path, parts: Iterable[bytes]) -> None:
    """Writes ``parts`` to ``path`` whole or not at all: temporary file, fsync, rename, fsync of the folder.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        if path.exists() and not path.is_file():  # renaming over a device would replace the device
            raise StorageError(
                f"{path} cannot be written: it is no file that can be replaced", hint="give the path of a file"
            )
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def safe_name(name: str) -> str:
    """A class name as the name of a folder."""
    return "".join(c if c.isalnum() or c in " -_." else "_" for c in name).strip(". ") or "_"
