"""TOML: the files in which users write what they want, and the values that they write on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holdfast.foundation.errors import BadFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_NOT_TOML = (ValueError, RecursionError)
"""What reading raises: TOMLDecodeError, text that is not UTF-8 or a number too long for Python; lists nested too deeply."""


def read(path: Path, what: str, example: str) -> dict[str, Any]:
    """The values of a file; ``what`` it is, and an ``example`` of its lines, are for the errors.

    Raises:
        BadFile: it does not exist, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"the {what} {path} does not exist", hint="give the path of a TOML file") from None
    except (*_NOT_TOML, OSError) as error:
        raise BadFile(f"the {what} {path} cannot be read: {error}", hint=f"write lines such as {example}") from None


def value(text: str) -> Any:
    """What a text means: a number, a list, true or false where it is TOML, else itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _NOT_TOML:
        return text
