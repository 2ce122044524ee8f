"""HopSkipJump: jumps along the decision boundary's normal, estimated from labels, each bisected back to the boundary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from holdfast.ascent.decision import apart
from holdfast.ascent.normal import ByNormal, Guided, check_frequencies
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.threats.threat import rows as per_row

HALVINGS = 20  # of a jump, before the normal is estimated anew


@register
@dataclass(frozen=True)
class HopSkipJump(ByNormal):
    """HopSkipJump: from a boundary point along the estimated normal as far as it fools, and straight back towards the image.

    Source: Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack" (IEEE S&P 2020),
    algorithms 1 and 2.
    Departures: the queries of an estimate lie a tenth of the point's distance away from it, not 1 / pixels of it, and the
    bisection ends as early as that allows; a first point is the nearest of several (see `holdfast.ascent.decision`).

    Args:
        steps: how many queries of each search.
        starts: how many random images each search tries for its first point.
        samples: how many queries make the first estimate (the paper's B_0); estimate t has sqrt(t) times as many.
        frequencies: the share of the lowest frequencies along each axis that the queries of an estimate differ in; 1.0 is
            the paper's white noise, 0.5 a quarter of the dimensions, where natural images differ most.
    """

    steps: int = 5000
    starts: int = 30
    samples: int = 100
    frequencies: float = 1.0

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("starts", self.starts)
        at_least_one("samples", self.samples)
        check_frequencies(self.frequencies)

    def follow(self, state: Guided) -> Guided:
        return _jump(dataclasses.replace(state, stride=state.distance / state.round.to(state.stride.dtype).sqrt()))

    def missed(self, state: Guided) -> Guided:
        return apart(state, (state.made >= HALVINGS).long(), (_shorter, self.landed))


def _shorter(state: Guided) -> Guided:
    return _jump(dataclasses.replace(state, stride=state.stride / 2))


def _jump(state: Guided) -> Guided:
    x = state.found + per_row(state.stride, state.way) * state.way
    return dataclasses.replace(state, x=x.clamp(0, 1))
