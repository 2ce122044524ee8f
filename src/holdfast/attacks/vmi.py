"""VMI: momentum whose gradients are tuned by those of random neighbours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.momentum import accumulated, ahead, check_decay, unit
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, positive, step_size
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Tuning(State):
    """Where R searches stand; all (R, C, H, W).

    Args:
        velocity: the momentum.
        centre: the point before the last move; its neighbours are drawn around it.
        variance: the mean gradient of the neighbours less the gradient that moved (the paper's v), as far as summed.
    """

    velocity: Tensor
    centre: Tensor
    variance: Tensor


@register
@dataclass(frozen=True)
class VMI(Attack):
    """Variance tuning (VMI-FGSM): MIM that corrects each gradient by those around the last point. Made to transfer.

    Source: Wang and He, "Enhancing the transferability of adversarial attacks through variance tuning" (CVPR 2021),
    algorithm 1. Departures: neighbours are not observed; the neighbours of the last point, which nothing uses, are not
    evaluated; in L2 and L1 the neighbourhood is the cube whose corners lie ``beta`` radii away.

    Args:
        steps: how many moves; each but the last takes ``neighbours + 1`` forwards and gradients.
        neighbours: how many neighbours (the paper's N).
        beta: how far they lie from the point at most, in radii.
        decay: the decay of the momentum (the paper's mu).
        nesterov: take the gradient at the look-ahead of `holdfast.attacks.ni` (the paper's VNI-FGSM).
        step_size: the length of a move, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("linf", "l2", "l1")

    steps: int = 10
    neighbours: int = 20
    beta: float = 1.5
    decay: float = 1.0
    nesterov: bool = False
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("neighbours", self.neighbours)
        positive("beta", self.beta)
        step_size(self.step_size, 0)
        check_decay(self.decay)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return (self.steps - 1) * (self.neighbours + 1) + 1

    def begin(self, model: Classifier, rows: Rows) -> Tuning:
        zero = torch.zeros_like(rows.x0)
        return Tuning.at(rows, rows.x0, velocity=zero, centre=rows.x0, variance=zero)

    def step(self, model: Classifier, state: State) -> Tuning:
        """Evaluates ``x``, or its look-ahead, and moves; or evaluates one neighbour of the point that it moved from."""
        assert isinstance(state, Tuning)
        rows, threat, x = state.rows, state.rows.threat, state.x
        size = step_size(self.step_size, threat.stride(self.steps))
        moving = state.count % (self.neighbours + 1) == 0
        moves = per_row(moving, x)
        here = ahead(rows, x, state.velocity, self.decay * size) if self.nesterov else x
        noise = 2 * keys.uniform(keys.fold(rows.key, state.count), x.shape[1:], dtype=x.dtype) - 1
        near = state.centre + self.beta * threat.eps * unit(rows) * noise
        there = dataclasses.replace(state, x=torch.where(moves, here, near))
        logits, value, grad = evaluate(model, self.objective, there)
        state = observe(there, logits, value, allowed=moving)
        velocity = accumulated(state.velocity, grad + state.variance, self.decay)
        moved = threat.project(rows.x0, x + size * threat.steepest(velocity))
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=torch.where(moves, moved, x),
            velocity=torch.where(moves, velocity, state.velocity),
            centre=torch.where(moves, x, state.centre),
            variance=torch.where(moves, -grad, state.variance + grad / self.neighbours),
            count=count,
            done=count >= self.steps_on(threat),
        )
