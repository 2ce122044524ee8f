"""Uniform noise: random points of the set. A baseline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class UniformNoise(Attack):
    """Uniform noise: random points of the set, one a step.

    A baseline: a model that falls to it has no robustness to speak of.

    Source: the repeated noise baselines of Rauber, Brendel and Bethge, "Foolbox: a Python toolbox to benchmark the
    robustness of machine learning models" (2017); the points are those of `Threat.sample`.

    Args:
        steps: how many points are tried.
        loss: what decides which point is kept when none fools (see `holdfast.losses`).
    """

    needs = "labels"

    steps: int = 100
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> State:
        return State.at(rows, rows.threat.sample(rows.x0, keys.fold(rows.key, 0)))

    def step(self, model: Classifier, state: State) -> State:
        rows, logits = state.rows, model(state.x)
        state = observe(state, logits, self.objective(logits, rows.y, rows.target))
        count = state.count + 1
        x = rows.threat.sample(rows.x0, keys.fold(rows.key, count))
        return dataclasses.replace(state, x=x, count=count, done=count >= self.steps)
