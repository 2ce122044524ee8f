"""Spatial, exhaustively: every transformation of a grid."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.rendered import rendered
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class SpatialGrid(Attack):
    """Grid search: every rotation and translation of a grid over the whole set. Needs scores, no gradients.

    Source: Engstrom et al., "Exploring the landscape of spatial robustness" (ICML 2019), section 3, "grid search": 5 values
    of each shift and 31 angles. Departures: the farthest transformations come first, since they fool soonest, and a sample
    stops at its first misclassified point.

    Args:
        angles: how many angles, from -eps to eps; 1: no rotation.
        shifts: how many shifts along each side, likewise; 1: no translation.
        loss: what is largest at the point that is kept where nothing fools (see `holdfast.losses`).
    """

    threats = ("spatial",)
    needs = "scores"

    angles: int = 31
    shifts: int = 5
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("angles", self.angles)
        at_least_one("shifts", self.shifts)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return max(1, self.angles * self.shifts**2 - 1)  # the engine evaluates the last point

    def begin(self, model: Classifier, rows: Rows) -> State:
        return State.at(rows, self._points(rows, torch.zeros_like(rows.y)))

    def step(self, model: Classifier, state: State) -> State:
        rows = state.rows
        logits = rendered(model, rows)(state.x)
        state = observe(state, logits, self.objective(logits, rows.y, rows.target))
        count = state.count + 1
        return dataclasses.replace(
            state, x=self._points(rows, count), count=count, done=count >= self.steps_on(rows.threat)
        )

    def _points(self, rows: Rows, number: Tensor) -> Tensor:
        """The grid's points of these numbers, (R, 3, 1, 1); beyond its end, the last."""
        angle, shift = _spread(self.angles), _spread(self.shifts)
        grid = torch.cartesian_prod(angle, shift, shift)
        grid = grid[grid.square().sum(1).sort(descending=True, stable=True).indices]
        chosen = grid.to(number.device)[number.clamp_max(len(grid) - 1)].to(rows.x0.dtype)
        return rows.threat.eps * chosen.view(-1, 3, 1, 1)


def _spread(count: int) -> Tensor:
    """``count`` even steps from -1 to 1; 0 where there is one alone."""
    return torch.linspace(-1, 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1, dtype=torch.float64)
