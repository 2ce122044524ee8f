"""Writing files so that nothing is ever half-written, and saying plainly when a disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.foundation.errors import StorageError

LONGEST = 50
"""Letters of a class's name in that of its folder: a file system takes 255 bytes, and a letter has up to four."""


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
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # never through a link that somebody put there
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


def output_folder(folder: Path) -> None:
    """Creates an output folder, where there is none.

    Raises:
        StorageError: something in it is a link: what is written there would land elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.iterdir():
        if each.is_symlink():
            raise StorageError(
                f"{each} is a link, and what is written there would land elsewhere",
                hint="remove it, or give another folder with --out",
            )


def safe_names(names: Sequence[str]) -> list[str]:
    """Class names as names of folders that differ even where case does not count; of equal ones all but the first are
    numbered by their class."""
    safe: list[str] = []
    taken: set[str] = set()
    for label, name in enumerate(names):
        short = "".join(c if c.isalnum() or c in " -_." else "_" for c in name)[:LONGEST].strip(". ") or "_"
        while short.casefold() in taken:
            short = f"{short}_{label}"
        taken.add(short.casefold())
        safe.append(short)
    return safe
