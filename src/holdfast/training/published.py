"""The recipes that come with holdfast, as files. Listing them imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.foundation import toml

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
    return toml.read(path, "recipe", "lr = 0.002")
