"""What a question was answered with: tables, sentences, arrays, and facts in a form that others can check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.experiments.outcome import Cell, Column


@dataclass(frozen=True)
class Table:
    """Typed cells under columns; ``caption`` says of which images, with which intervals."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Distance:
    """How far from each image something was found, for one net; None where nothing was.

    ``attack``: a misclassified point, an upper bound of the distance to the boundary. ``certified``: nothing within it is
    misclassified, a lower bound. ``random``: the boundary along one random direction.
    """

    net: str
    norm: Literal["linf", "l2", "l1"]
    kind: Literal["attack", "certified", "random"]
    by: str
    ids: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Right:
    """Which images a net still classifies rightly at a radius.

    ``strength`` orders what belongs together: of two of the same ``net``, ``norm`` and ``how`` the one with a larger radius
    and at least the strength must not be right more often. ``how``: ``noise``, ``transfer``, ``white box``.
    """

    net: str
    norm: Literal["linf", "l2", "l1"]
    how: Literal["noise", "transfer", "white box"]
    by: str
    eps: float
    ids: tuple[int, ...]
    right: tuple[bool, ...]
    strength: int = 1


@dataclass(frozen=True)
class Found:
    """The answer to a question.

    Args:
        tables: numbers with their intervals: a row for each net, and for each control.
        sentences: what the numbers say, made from them; never a textbook's.
        caveats: what the numbers do not say.
        breaches: what contradicts itself, and so forbids to believe the rest.
        distances, rights: facts about single images, for the contradiction checker and the case files.
        of_images: more numbers of single images: net -> name -> (n,), in the order of the images; None where there is none.
        arrays: NumPy arrays from which the figures are drawn.
        words: plain data, such as names, that the figures need besides.
    """

    tables: tuple[Table, ...]
    sentences: tuple[str, ...]
    caveats: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()
    distances: tuple[Distance, ...] = ()
    rights: tuple[Right, ...] = ()
    of_images: dict[str, dict[str, tuple[float | None, ...]]] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A drawing: its file's ``name``, what it shows, and an Altair chart as `holdfast.report.charts.styled` leaves it."""

    name: str
    caption: str
    chart: Any
