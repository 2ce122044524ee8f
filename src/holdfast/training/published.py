"""The recipes that come with holdfast, as files. Listing them imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holdfast.foundation.errors import BadFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent / "recipes"

WORDS = ("about", "source", "expected", "differs")
"""What a recipe says of itself: what it is, whose, the published figures, and where it departs from them."""


def summaries() -> dict[str, str]:
    """Recipe -> what it is."""
    return {path.stem: read(path).get("about", "") for path in sorted(HERE.glob("*.toml"))}


def words(name: str) -> dict[str, str]:
    """What a recipe says of itself, by `WORDS`."""
    values = read(HERE / f"{name}.toml")
    return {key: str(values[key]) for key in WORDS if key in values}


def read(path: Path) -> dict[str, Any]:
    """A recipe's file. Raises BadFile."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"the recipe {path} does not exist", hint="give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadFile(f"the recipe {path} cannot be read: {error}", hint="write lines such as lr = 0.002") from None
