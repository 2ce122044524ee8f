"""What the records of a run say, as far as the work that is left depends on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from holdfast.records.column import Column, Rows
from holdfast.records.schema import Record

TOLERANCE = 1e-6
"""How far, absolutely and relative to the radius, a stored point may lie outside the set: rounding of float32."""


class Outcome(NamedTuple):
    """What a verdict changes: ``distance`` is that of the point that fooled, None if none did."""

    stage: str
    eps: float
    id: int
    margin: float
    distance: float | None
    ranking: tuple[int, ...] | None

    @classmethod
    def of(cls, record: Record) -> Outcome:
        """That of a record that is final."""
        distance = record.distance if record.fooled else None
        return cls(record.stage, record.eps, record.id, record.margin, distance, record.ranking)


class Known:
    """The state of a run, brought up to date record by record.

    ``broken`` maps an id to the distance of the nearest point that broke it so far (0: misclassified from the start);
    ``ranking`` maps an id to its wrong classes by clean logit; ``margins`` maps (stage, eps) to the margins of its verdicts;
    ``held`` maps (stage, eps, id) of a sample without a verdict to the points of its fooled searches.
    """

    def __init__(self) -> None:
        self.broken = Column()
        self.margins: dict[tuple[str, float], Column] = {}
        self.ranking = Rows()
        self.held: dict[tuple[str, float, int], dict[int, int]] = {}
        self._searches: dict[tuple[str, float], dict[int, list[Record]]] = {}

    def judged(self, stage: str, eps: float) -> Column:
        """The ids that have a verdict of this stage at this radius, with the smallest margin that it met; a live view."""
        return self.margins.setdefault((stage, eps), Column())

    def broken_within(self, eps: float) -> np.ndarray:
        """The ids that a point at most that far away has broken, (n,) int64, ascending."""
        return self.broken.ids[self.broken.numbers <= _most(eps)]

    def searches(self, stage: str, eps: float) -> list[Record]:
        """The searches that are finished, of samples without a verdict of this stage at this radius."""
        return [record for searches in self._searches.get((stage, eps), {}).values() for record in searches]

    def has(self, record: Record) -> bool:
        """Whether nothing is to be learnt from this record."""
        if record.id in self.judged(record.stage, record.eps):
            return True
        searches = self._searches.get((record.stage, record.eps), {}).get(record.id, ())
        return not record.final and any(known.search == record.search for known in searches)

    def note(self, record: Record) -> None:
        """Takes in a record."""
        if record.final:
            self.learn(Outcome.of(record))
            return
        self._searches.setdefault((record.stage, record.eps), {}).setdefault(record.id, []).append(record)
        if record.point is not None:
            self.held.setdefault((record.stage, record.eps, record.id), {})[record.search] = record.point

    def learn(self, outcome: Outcome) -> None:
        """Takes in a verdict."""
        where, sample = (outcome.stage, outcome.eps), outcome.id
        self.held.pop((*where, sample), None)
        self._searches.get(where, {}).pop(sample, None)
        self.judged(*where)[sample] = outcome.margin
        if outcome.distance is not None:
            self.broken[sample] = min(outcome.distance, self.broken.get(sample, outcome.distance))
        if outcome.ranking is not None:
            self.ranking[sample] = outcome.ranking


def within(distance: float, eps: float) -> bool:
    """Whether a point lies inside the radius, but for the rounding of float32."""
    return distance <= _most(eps)


def _most(eps: float) -> float:
    return eps * (1 + TOLERANCE) + TOLERANCE
