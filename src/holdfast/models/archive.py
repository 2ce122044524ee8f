"""Looks inside a model's zip archive before anything reads it.

Torch writes its archives in one way: one top folder, members stored as they are, no name twice. Everything else is refused,
so that no archive unpacks to more than it is, none names a place outside itself, and none shows one member to us and
another to torch.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from holdfast.foundation.errors import BadFile

MOST_MEMBERS = 100_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_ENCRYPTED = 1


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a torch archive, by their names without the top folder. Nothing is unpacked.

    Raises:
        BadFile: no zip archive, a damaged one, or one that torch does not write: compressed or encrypted members, members
            that together are longer than the file, two of one name, a name that leaves the archive, two top folders.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise _refused(path, "does not begin as a zip archive does")
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadFile(
            f"{path} cannot be read as a zip archive ({type(error).__name__}: {error})",
            hint="copy or download it again; it is truncated, damaged, or of another kind than its name says",
        ) from None
    if not 0 < len(listed) <= MOST_MEMBERS:
        raise _refused(path, f"has {len(listed):,} members")
    for each in listed:
        parts = each.filename.split("/")
        if len(parts) < 2 or {"", ".", ".."} & {*parts} or _CONTROL.search(each.orig_filename):
            raise _refused(path, f"has a member of the name {each.orig_filename[:100]!r}")
        if each.flag_bits & _ENCRYPTED or each.compress_type != zipfile.ZIP_STORED:
            raise _refused(
                path,
                f"has the member {each.filename}, which unpacks {each.compress_size:,} bytes to {each.file_size:,}",
            )
    if sum(each.file_size for each in listed) > size:
        raise _refused(path, f"has members that together are longer than its {size:,} bytes")
    name, times = Counter(each.filename.casefold() for each in listed).most_common(1)[0]
    if times > 1:
        raise _refused(path, f"has {times} members of the name {name[:100]}")
    if len(tops := {each.filename.partition("/")[0] for each in listed}) > 1:
        raise _refused(path, f"has the top folders {', '.join(sorted(tops)[:3])}")
    return {each.filename.partition("/")[2]: each for each in listed}


def read(path: Path, listed: dict[str, zipfile.ZipInfo], names: Collection[str]) -> dict[str, bytearray]:
    """The bytes of some members that `members` listed.

    Raises:
        BadFile: a member is not there, or its bytes do not have the checksum that the archive says.
    """
    held = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                if name not in listed:
                    raise _refused(path, f"has no member {name[:100]}")
                held[name] = bytearray(archive.read(listed[name]))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise BadFile(
            f"{path} is damaged ({type(error).__name__}: {error})", hint="copy or download it again"
        ) from None
    return held


def _refused(path: Path, what: str) -> BadFile:
    return BadFile(
        f"{path} {what}, as no archive does that a recent torch writes; it is refused",
        hint="save the model again with a recent torch (an exported program: 2.9 or newer), on a machine that you trust",
    )
