"""Steepest ascent on a set, as two pure functions: direction x step rule x loss x start."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.momentum import accumulated
from holdfast.ascent.starts import Start
from holdfast.ascent.state import Rows, State, observe
from holdfast.ascent.steps import Schedule, constant
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

ODI = keys.number("output-diversified initialisation")


@dataclass(frozen=True)
class Climb(State):
    """Where R steepest ascents stand; ``velocity``, (R, C, H, W), is the momentum (None: there is none)."""

    velocity: Tensor | None = None


@dataclass(frozen=True)
class Steepest:
    """The rule of one steepest ascent.

    Args:
        loss: what rises.
        steps: how many steps each row takes.
        size: the length of the first step, in the threat's own unit.
        start: where it begins.
        schedule: which share of ``size`` later steps have.
        momentum: the decay of the accumulated gradient; None leaves momentum out.
        project: whether every step ends with the projection onto the set. A search that leaves it out returns raw points
            in ``x``; the engine projects what it keeps.
        diversify: how many steps of one radius along a random direction of the logits come first, besides ``steps``.
    """

    loss: Loss
    steps: int
    size: float
    start: Start
    schedule: Schedule = constant
    momentum: float | None = None
    project: bool = True
    diversify: int = 0

    def begin(self, rows: Rows) -> Climb:
        """The searches before their first evaluation."""
        x = self.start(rows)
        return Climb.at(rows, x, velocity=None if self.momentum is None else torch.zeros_like(x))

    def step(self, model: Classifier, state: Climb) -> Climb:
        """Evaluates ``x`` (one forward, one gradient), keeps it if it is better, and moves on."""
        rows = state.rows
        logits, value, grad = evaluate(model, self._rising(state), state)
        if self.diversify:
            value = self.loss(logits, rows.y, rows.target)
        allowed = None if self.project else rows.threat.distance(rows.x0, state.x) <= rows.threat.eps
        state = observe(state, logits, value, allowed=allowed)
        velocity = None
        if self.momentum is not None and state.velocity is not None:
            grad = velocity = accumulated(state.velocity, grad, self.momentum)
        length = torch.as_tensor(
            self.size * self.schedule(state.count - self.diversify, self.steps), dtype=grad.dtype, device=grad.device
        )
        if self.diversify:
            length = torch.where(state.count < self.diversify, rows.threat.stride(1), length)
        x = state.x + per_row(length.expand(len(state)), grad) * rows.threat.steepest(grad)
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=rows.threat.project(rows.x0, x) if self.project else x,
            velocity=velocity,
            count=count,
            done=count >= self.steps + self.diversify,
        )

    def _rising(self, state: Climb) -> Loss:
        """The loss; in rows that still diversify, a random combination of the logits, each row's own.

        Tashiro, Song and Ermon 2020, equation 2: weights uniform in [-1, 1], drawn once per search.
        """
        if not self.diversify:
            return self.loss

        def rising(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
            key = keys.fold(state.rows.key, ODI)
            combined = (logits * (2 * keys.uniform(key, logits.shape[1:], dtype=logits.dtype) - 1)).sum(1)
            return torch.where(state.count < self.diversify, combined, self.loss(logits, y, target))

        return rising


class SteepestAttack(Attack):
    """An attack that is one named combination of direction, step rule, loss and start: a `rule` is all it adds.

    Its field ``loss`` names the loss (see `holdfast.losses`).
    """

    @property
    @abstractmethod
    def loss(self) -> str:
        """The name of the loss that rises."""

    @abstractmethod
    def rule(self, threat: Threat) -> Steepest:
        """The combination, for that set."""

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        rule = self.rule(threat)
        return rule.diversify + rule.steps

    def begin(self, model: Classifier, rows: Rows) -> Climb:
        return self.rule(rows.threat).begin(rows)

    def step(self, model: Classifier, state: State) -> State:
        assert isinstance(state, Climb)
        return self.rule(state.rows.threat).step(model, state)
