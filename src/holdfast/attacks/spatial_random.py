"""Spatial, by chance: the worst of a few random transformations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from holdfast import keys, losses
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
class SpatialRandom(Attack):
    """Worst of k: the worst of ``draws`` random rotations and translations. Needs scores, no gradients.

    Source: Engstrom et al., "Exploring the landscape of spatial robustness" (ICML 2019), section 3, "worst-of-k".
    Departure: a sample stops at its first misclassified point.

    Args:
        draws: how many transformations are tried (the paper's k).
        loss: what is largest at the point that is kept where nothing fools (see `holdfast.losses`).
    """

    threats = ("spatial",)
    needs = "scores"

    draws: int = 10
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("draws", self.draws)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return max(1, self.draws - 1)  # the engine evaluates the last point

    def begin(self, model: Classifier, rows: Rows) -> State:
        return State.at(rows, rows.threat.sample(rows.x0, keys.fold(rows.key, 0)))

    def step(self, model: Classifier, state: State) -> State:
        rows = state.rows
        logits = rendered(model, rows)(state.x)
        state = observe(state, logits, self.objective(logits, rows.y, rows.target))
        count = state.count + 1
        x = rows.threat.sample(rows.x0, keys.fold(rows.key, count.clamp_max(self.draws - 1)))
        return dataclasses.replace(state, x=x, count=count, done=count >= self.steps_on(rows.threat))
