"""What an experiment ends in: a table of typed cells, a chart, and whether the shape of the literature came out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval


@dataclass(frozen=True)
class Estimate:
    """A number that is no share, from n samples, with its interval, in the unit of its column."""

    value: float
    n: int
    low: float
    high: float
    of: Literal["numbers"] = "numbers"
    """Tells it from an `Interval` in a file."""


Cell = str | int | float | Interval | Estimate
"""What stands in a table: an `Interval` holds a share of n samples, or a mean over n seeds, as a share."""


@dataclass(frozen=True)
class Column:
    """A column: its ``name``, the ``unit`` of its plain numbers, and how many ``digits`` after the point are shown."""

    name: str
    unit: str = ""
    digits: int = 1


class Tabular(Protocol):
    """Whatever is a table: columns, and rows with a cell for each."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]: ...


@dataclass(frozen=True)
class Verdict:
    """Whether the shape was ``reproduced``, and what was ``seen``: a sentence made of the numbers of the table."""

    reproduced: bool
    seen: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment.

    Args:
        caption: what the table holds: on which images, by which judge, with which intervals.
        columns: its columns.
        rows: its rows, a cell for each column.
        chart: an Altair specification.
        verdict: what the numbers say.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chart: Any
    verdict: Verdict


def seeds(values: Sequence[float]) -> Interval:
    """The mean over independent trainings, with Student's 95 % interval; of one alone the interval is [-inf, inf].

    Raises:
        BadValue: there are none.
    """
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        raise BadValue("there is no value to take the mean of", hint="give at least one seed")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, 1, -math.inf, math.inf)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return Interval(mean, n, mean - half, mean + half)


def percent(share: float) -> str:
    """A share in words: ``77.4 %``."""
    return f"{100 * share:.1f} %"


def head(column: Column, cell: Cell) -> str:
    """The column's name with the unit of its cells, of which ``cell`` is one: shares are shown in percent."""
    unit = "%" if isinstance(cell, Interval) else column.unit
    return f"{column.name}, {unit}" if unit else column.name


def shown(column: Column, cell: Cell) -> str:
    """A cell in words, an interval with its bounds where it has them; the unit stands in the head."""
    if isinstance(cell, Interval):
        bounds = f" ({100 * cell.low:.1f} to {100 * cell.high:.1f})" if math.isfinite(cell.low) else ""
        return f"{100 * cell.value:.1f}{bounds}"
    if isinstance(cell, Estimate):
        return "none" if not cell.n else f"{cell.value:.3g} ({cell.low:.3g} to {cell.high:.3g})"
    if isinstance(cell, float):
        return f"{cell:,.{column.digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
