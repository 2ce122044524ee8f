"""Momentum ascent along gradients that are taken where they transfer: ahead of the point, or on changed copies of it."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.foundation.errors import BadValue
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Gathering(State):
    """Where R searches stand.

    Args:
        velocity: the momentum, (R, C, H, W).
        gathered: the sum of the gradients of this move's views so far, (R, C, H, W).
    """

    velocity: Tensor
    gathered: Tensor


View = Callable[[Gathering], tuple[Tensor, Callable[[Tensor], Tensor]]]
"""State -> (R,) bool, the rows that see their point itself, and the differentiable change that all others see."""


def accumulated(velocity: Tensor, grad: Tensor, decay: float) -> Tensor:
    """The momentum after ``grad``: its length is divided out before it is added (Dong et al. 2018, equation 6)."""
    mean = grad.flatten(1).abs().mean(1).clamp_min(torch.finfo(grad.dtype).tiny)
    return decay * velocity + grad / per_row(mean, grad)


def unit(rows: Rows) -> Tensor:
    """How much every value of an image has to change for a change of length 1: 1 in Linf, less elsewhere; (R, 1, 1, 1).

    It carries lengths that were written for the pixels of Linf (a look-ahead, a neighbourhood) over to other norms.
    """
    zero = torch.zeros_like(rows.x0)
    return per_row(1 / rows.threat.distance(zero, zero + 1), zero)


def ahead(rows: Rows, x: Tensor, velocity: Tensor, length: float) -> Tensor:
    """Nesterov's look-ahead: the point of the set that the momentum alone would lead to.

    Source: Lin et al. 2020, section 3.1. Departure: it is projected. Where many pixels are black or white, as in MNIST, the
    momentum points out of the box, and gradients out there help neither the search nor the transfer.
    """
    return rows.threat.project(rows.x0, x + length * unit(rows) * velocity)


def check_decay(decay: float) -> None:
    """Refuses a negative decay."""
    if not decay >= 0:
        raise BadValue(f"decay is {decay!r}; it must not be negative", hint="the papers use decay=1.0")


@dataclass(frozen=True)
class Gather:
    """The rule: every ``views`` steps one move along the momentum of the gradients gathered in them.

    Only untransformed points of the set are observed; what a changed view shows says nothing about the point.

    Args:
        loss: what rises.
        moves: how often the point moves.
        size: the length of a move, in the threat's own unit.
        decay: the decay of the momentum.
        views: the gradients of each move, one per step.
        view: what the model sees; the point itself unless given.
        smooth: a change of the gathered gradient before it enters the momentum.
        nesterov: take the gradients at the look-ahead instead of at the point.
    """

    loss: Loss
    moves: int
    size: float
    decay: float
    views: int = 1
    view: View | None = None
    smooth: Callable[[Tensor], Tensor] | None = None
    nesterov: bool = False

    @property
    def steps(self) -> int:
        """How many steps a search takes."""
        return self.moves * self.views

    def begin(self, rows: Rows) -> Gathering:
        """The searches before their first evaluation, at the clean images."""
        zero = torch.zeros_like(rows.x0)
        return Gathering.at(rows, rows.x0, velocity=zero, gathered=zero)

    def step(self, model: Classifier, state: Gathering) -> Gathering:
        """Evaluates one view (one forward, one gradient); after the last view of a move, moves on."""
        rows, x = state.rows, state.x
        point = ahead(rows, x, state.velocity, self.decay * self.size) if self.nesterov else x
        itself, seen = torch.ones_like(state.done), model
        if self.view is not None:
            itself, change = self.view(state)
            seen = lambda images: model(torch.where(per_row(itself, images), images, change(images)))  # noqa: E731
        there = dataclasses.replace(state, x=point)
        logits, value, grad = evaluate(seen, self.loss, there)
        state = observe(there, logits, value, allowed=itself)
        gathered = state.gathered + grad
        velocity = accumulated(state.velocity, self.smooth(gathered) if self.smooth else gathered, self.decay)
        moved = rows.threat.project(rows.x0, x + self.size * rows.threat.steepest(velocity))
        count = state.count + 1
        moves = per_row(count % self.views == 0, x)
        return dataclasses.replace(
            state,
            x=torch.where(moves, moved, x),
            velocity=torch.where(moves, velocity, state.velocity),
            gathered=gathered.masked_fill(moves, 0),
            count=count,
            done=count >= self.steps,
        )


class GatherAttack(Attack):
    """An attack that is one named combination of views, smoothing and look-ahead: a `rule` is all it adds.

    Its field ``loss`` names the loss (see `holdfast.losses`).
    """

    threats = ("linf", "l2", "l1")

    @property
    @abstractmethod
    def loss(self) -> str:
        """The name of the loss that rises."""

    @abstractmethod
    def rule(self, threat: Threat) -> Gather:
        """The combination, for that set."""

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.rule(threat).steps

    def begin(self, model: Classifier, rows: Rows) -> Gathering:
        return self.rule(rows.threat).begin(rows)

    def step(self, model: Classifier, state: State) -> State:
        assert isinstance(state, Gathering)
        return self.rule(state.rows.threat).step(model, state)
