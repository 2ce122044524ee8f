"""Spatial, by gradients: ascent on the angle and the two shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent import starts, steps
from holdfast.ascent.meter import Classifier
from holdfast.ascent.rendered import rendered
from holdfast.ascent.state import State
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class SpatialGradient(SteepestAttack):
    """Gradient ascent on rotation and translation: signed steps on three parameters from a random transformation.

    Source: Engstrom et al., "Exploring the landscape of spatial robustness" (ICML 2019), section 3, "first-order method".
    Departures: the steps shrink along a cosine, many searches from different transformations replace one long one, and the
    best point is kept. The loss over the three parameters has many local maxima: a grid finds what this one misses.

    Args:
        steps: how many steps of each search.
        restarts: how many searches of each sample, from different random transformations.
        step_size: the length of a step, in degrees; 2.5 radii over ``steps`` unless given.
        schedule: how the length of the steps falls (see `holdfast.ascent.steps`).
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("spatial",)

    steps: int = 10
    restarts: int = 10
    step_size: float | str | None = None
    schedule: str = "cosine"
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        step_size(self.step_size, 0)
        steps.named(self.schedule)

    def searches(self, ranking: Tensor) -> Tensor:
        return torch.full((len(ranking), self.restarts), -1)

    def rule(self, threat: Threat) -> Steepest:
        return Steepest(
            self.objective,
            steps=self.steps,
            size=step_size(self.step_size, threat.stride(self.steps, 2.5)),
            start=starts.uniform,
            schedule=steps.named(self.schedule),
        )

    def step(self, model: Classifier, state: State) -> State:
        return super().step(rendered(model, state.rows), state)
