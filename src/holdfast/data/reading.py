"""The one place where what a broken, missing or forbidden file raises becomes an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.foundation.errors import BadFile, HoldfastError


@contextmanager
def reading(path: Path, *, what: str) -> Iterator[None]:
    """Turns whatever the block raises into a BadFile for ``path``, read as ``what`` ("a PNG file").

    The block must hold the reading alone: zlib, zipfile, PIL, NumPy and pyarrow raise dozens of types on damaged bytes,
    among them ValueError and TypeError, which is why everything is caught.
    """
    try:
        yield
    except HoldfastError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadFile(f"{path} does not exist", hint=f"check the path; relative ones start at {Path.cwd()}") from None
    except PermissionError:
        raise BadFile(f"{path} may not be read", hint="give your user read permission on it and its folders") from None
    except MemoryError:
        raise BadFile(f"{path} does not fit into memory", hint="it is damaged, or must be split into parts") from None
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".strip().rstrip(":").partition("\n")[0]
        raise BadFile(
            f"{path} cannot be read as {what} ({detail})",
            hint="it is truncated, damaged, or of another kind than its name says; fetch or write it again",
        ) from error


def first_bytes(path: Path, count: int = 8) -> bytes:
    """The first bytes of a file; fewer where it is shorter. Raises BadFile."""
    with reading(path, what="a file"), path.open("rb") as file:
        return file.read(count)
