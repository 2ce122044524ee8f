"""JSMA: one pixel after another, the most salient first, until the label changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, number_of_targets
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat, room


@register
@dataclass(frozen=True)
class JSMA(Attack):
    """Jacobian-based saliency map attack: changes the most salient pixel as far as it goes, one after another.

    Source: Papernot et al., "The limitations of deep learning in adversarial settings" (EuroS&P 2016), section IV and
    algorithm 3.
    Departures: the map is that of the difference of two logits, the target's and the true one, by one gradient, where the
    paper multiplies the derivatives of the target's output and of all others; one pixel at a time with all its channels, not
    a pair of values; a value moves up or down, as its derivative says, and counts by how far it can go.

    Args:
        steps: how many pixels change at most; eps unless given.
        targets: the number of target classes, those of the largest clean logits, each searched for on its own; 0 for the
            nearest wrong class at each step, one search.
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("l0",)

    steps: int | None = None
    targets: int = 9
    loss: str = "margin"

    def __post_init__(self) -> None:
        if self.steps is not None:
            at_least_one("steps", self.steps)
        number_of_targets(self.targets)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def searches(self, ranking: Tensor) -> Tensor:
        return ranking[:, : self.targets] if self.targets else torch.full((len(ranking), 1), -1)

    def steps_on(self, threat: Threat) -> int:
        places = max(1, round(threat.eps))
        return places if self.steps is None else min(places, self.steps)

    def begin(self, model: Classifier, rows: Rows) -> State:
        return State.at(rows, rows.x0)

    def step(self, model: Classifier, state: State) -> State:
        """Evaluates ``x`` and sends the pixel from which most is to be gained to its corner of the colour cube."""
        x0, x = state.rows.x0, state.x
        logits, value, grad = evaluate(model, self.objective, state)
        state = observe(state, logits, value)
        corner = room(x, grad) * grad.sign()
        gain = (grad * corner).sum(1, keepdim=True)
        # A pixel that was changed has been where it could go.
        gain = torch.where((x != x0).any(1, keepdim=True), 0, gain).flatten(1)
        place = gain.argmax(1)
        chosen = torch.zeros_like(gain, dtype=torch.bool).scatter_(1, place[:, None], gain.amax(1, keepdim=True) > 0)
        ahead = (x + corner * chosen.view(len(x), 1, *x.shape[2:])).clamp(0, 1)
        count = state.count + 1
        done = ~chosen.any(1) | (count >= self.steps_on(state.rows.threat))
        return dataclasses.replace(state, x=ahead, count=count, done=done)
