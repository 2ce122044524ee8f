"""Where a search begins."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from holdfast.ascent.state import Rows
from holdfast.foundation.registry import pick

Start = Callable[[Rows], Tensor]
"""Rows -> the first points, (R, C, H, W)."""


def clean(rows: Rows) -> Tensor:
    """The clean image itself."""
    return rows.x0


def uniform(rows: Rows) -> Tensor:
    """A random point of the threat set."""
    return rows.threat.sample(rows.x0, rows.key)


STARTS: dict[str, Start] = {start.__name__: start for start in (clean, uniform)}


def named(name: str) -> Start:
    """The start of that name.

    Raises:
        UnknownName: no start has it.
    """
    return pick("start", name, STARTS)
