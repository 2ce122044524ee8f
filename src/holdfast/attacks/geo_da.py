"""GeoDA: from the clean image along the decision boundary's normal, estimated from labels, to the boundary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from holdfast.ascent.decision import apart
from holdfast.ascent.normal import ByNormal, Guided, check_frequencies
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.threats.threat import rows as per_row

FURTHER, TIMES = 1.25, 6  # how much further a query that does not fool is tried again, and how often


@register
@dataclass(frozen=True)
class GeoDA(ByNormal):
    """GeoDA: takes the boundary for flat, and goes from the clean image along the normal estimated at a boundary point.

    Source: Rahmati et al., "GeoDA: a geometric framework for black-box adversarial attacks" (CVPR 2020), algorithm 1, with
    the estimate in the subspace of the lowest frequencies.
    Departures: the estimate takes its mean off, as HopSkipJump's does, and its queries lie a tenth of the point's distance
    away from it; their number grows with the square root; after `TIMES` queries along a normal that do not fool, the normal
    is estimated anew; a first point is the nearest of several (see `holdfast.ascent.decision`).

    Args:
        steps: how many queries of each search.
        starts: how many random images each search tries for its first point.
        samples: how many queries make the first estimate; estimate t has sqrt(t) times as many.
        frequencies: the share of the lowest frequencies along each axis that the queries of an estimate differ in; 1.0
            is white noise. The paper uses 75 of 224.
    """

    steps: int = 5000
    starts: int = 30
    samples: int = 200
    frequencies: float = 0.3

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("starts", self.starts)
        at_least_one("samples", self.samples)
        check_frequencies(self.frequencies)

    def follow(self, state: Guided) -> Guided:
        return _reach(dataclasses.replace(state, stride=state.distance))

    def missed(self, state: Guided) -> Guided:
        return apart(state, (state.made >= TIMES).long(), (_further, self.landed))


def _further(state: Guided) -> Guided:
    return _reach(dataclasses.replace(state, stride=state.stride * FURTHER))


def _reach(state: Guided) -> Guided:
    x = state.rows.x0 + per_row(state.stride, state.way) * state.way
    return dataclasses.replace(state, x=x.clamp(0, 1))
