"""The versioned schema of what ``holdfast compare --json`` prints: several finished runs, paired image by image."""

from __future__ import annotations

from typing import Literal

from holdfast.foundation import units
from holdfast.records.schema import SCHEMA_VERSION, Frozen, ModelInfo, Rate

Kind = Literal["worst case", "corruptions", "perturbations", "defence"]
Group = Literal["model", "data", "plan", "configuration", "versions"]


class Compared(Frozen):
    """One of the runs: its ``label`` here, its ``folder`` as it was given, its model, and how many ``doubts`` it has."""

    label: str
    folder: str
    model: ModelInfo
    doubts: int


class Difference(Frozen):
    """A difference of two means over the same images, with its 95 % interval."""

    value: float
    low: float
    high: float


class Against(Frozen):
    """A run beside the first one: ``difference`` is its figure minus that of the first.

    ``only_first`` and ``only_other`` count the images that only one of the two gets right; ``p_value`` is McNemar's exact
    one, ``p_adjusted`` that of Holm over all runs of the row. All None where an image is not simply right or wrong.
    """

    difference: Difference
    only_first: int | None = None
    only_other: int | None = None
    p_value: float | None = None
    p_adjusted: float | None = None


class Row(Frozen):
    """One figure of every run. ``eps``: the radius that it belongs to; ``headline``: the one that the verdict is about;
    ``higher_is_better``: False of errors and flips. ``against`` has an entry for each run but the first."""

    measure: str
    eps: float | None = None
    headline: bool = False
    higher_is_better: bool = True
    rates: tuple[Rate, ...]
    against: tuple[Against, ...]

    @property
    def title(self) -> str:
        """What it is about: ``robust accuracy at 8/255``."""
        return self.measure if self.eps is None else f"{self.measure} at {units.show(self.eps)}"


class Flip(Frozen):
    """An image on which the runs disagree at the headline: whether each of them gets it ``right``."""

    id: int
    label: int
    right: tuple[bool, ...]


class Part(Frozen):
    """What was measured in one way by all runs, on the ``n`` images that all have; ``left_out``: images of the first run
    that another one lacks."""

    kind: Kind
    n: int
    left_out: int
    rows: tuple[Row, ...]
    flips: tuple[Flip, ...] = ()

    @property
    def headline(self) -> Row:
        """The row that the verdict is about."""
        return next(row for row in self.rows if row.headline)


class Change(Frozen):
    """A setting in which the runs differ; ``values`` has one entry for each, None where a run does not have it."""

    group: Group
    what: str
    values: tuple[str | None, ...]


class Caution(Frozen):
    """What keeps a difference from meaning what it seems to.

    ``about``: the runs' own ``doubts``; ``data`` that differ; the ``search``, which was not the same; ``kinds`` that not all
    runs have; runs that are the ``same``.
    """

    about: Literal["doubts", "data", "search", "kinds", "same"]
    text: str


class Comparison(Frozen):
    """Several runs beside the first of them."""

    schema_version: int = SCHEMA_VERSION
    runs: tuple[Compared, ...]
    parts: tuple[Part, ...]
    changes: tuple[Change, ...]
    cautions: tuple[Caution, ...]
