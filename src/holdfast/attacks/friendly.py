"""Friendly PGD: each search stops where the model has just been fooled. Made for training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent import starts
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Climb(State):
    """Where R searches stand; ``left``, (R,) int64: how many misclassified points each may still step on from."""

    left: Tensor


@register
@dataclass(frozen=True)
class Friendly(Attack):
    """PGD that ends at a point which fools the model barely: the inner attack of friendly adversarial training.

    Source: Zhang et al., "Attacks which do not kill training make adversarial learning stronger" (ICML 2020), algorithm 1.
    A search ends at a misclassified point once it has stepped on from ``tau`` of them, and stays there (``State.x``, which
    training uses). Made for training: an audit ends every search at its first misclassified point, whatever the attack.
    Departure: ``tau`` stays as it is, where the authors' code raises it from 0 to 2 in the course of the training.

    Args:
        steps: how many steps at most; the authors take 10.
        step_size: the length of a step, as a number or as text (``"2/255"``); 2.5 radii over ``steps`` unless given.
        start: where each search begins (see `holdfast.ascent.starts`).
        loss: what rises (see `holdfast.losses`).
        tau: from how many misclassified points a search steps on; ``steps`` and above: it never stops early.
    """

    steps: int = 10
    step_size: float | str | None = None
    start: str = "uniform"
    loss: str = "ce"
    tau: int = 0

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        step_size(self.step_size, 0)
        starts.named(self.start)
        if isinstance(self.tau, bool) or not isinstance(self.tau, int) or self.tau < 0:
            raise BadValue(
                f"tau is {self.tau!r}; it must be a whole number, at least 0",
                hint="the authors use tau=0, then 1 and 2",
            )

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> Climb:
        return Climb.at(rows, starts.named(self.start)(rows), left=torch.full_like(rows.y, self.tau))

    def step(self, model: Classifier, state: State) -> Climb:
        assert isinstance(state, Climb)
        threat = state.rows.threat
        logits, value, grad = evaluate(model, self.objective, state)
        state = observe(state, logits, value)
        wrong = logits.argmax(1) != state.rows.y
        stops = wrong & (state.left == 0)
        length = step_size(self.step_size, threat.stride(self.steps, 2.5))
        moved = threat.project(state.rows.x0, state.x + length * threat.steepest(grad))
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=torch.where(per_row(stops, moved), state.x, moved),
            left=state.left - (wrong & ~stops).long(),
            count=count,
            done=stops | (count >= self.steps),
        )
