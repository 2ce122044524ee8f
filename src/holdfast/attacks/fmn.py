"""FMN: gradient steps inside a ball around the image whose radius closes in on the decision boundary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.nearing import heading, waning
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one, positive
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

GROWTH = 0.2  # how much the ball grows in every step before the first success
GAMMA_END = 0.2  # the share of gamma that is left in the last step
STEP_END = 0.01  # the share of the step's length that is left in the last step


@dataclass(frozen=True)
class Closing(State):
    """Where R searches stand.

    Args:
        radius: of the ball in which ``x`` lies, (R,).
        nearest: the smallest distance at which any point fooled, within eps or not, (R,); inf before the first.
    """

    radius: Tensor
    nearest: Tensor


@register
@dataclass(frozen=True)
class FMN(Attack):
    """Fast minimum norm: steps along the gradient inside a ball that shrinks while the point fools and grows while not.

    Source: Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints" (NeurIPS 2021),
    algorithm 1.
    Departures, which find a point on masked models where the paper's search stays before the boundary: until the first
    success the ball grows by a fifth in every step at least, the point is taken out to its rim, and the step keeps its
    first length; gamma falls to a fifth of itself, not to a fiftieth. L0 counts pixels with all their channels, and its
    steps have length 1 in their largest value. The projection is onto ball and box together, but in L2, where it is onto the
    ball and then onto the box, as in the paper: it costs half of a step elsewise and gains nothing.

    Args:
        steps: how many steps.
        step_size: the Euclidean length of the first step (the paper's alpha_0); it falls along half a cosine to a
            hundredth of that. In L0 the largest change of a pixel value.
        gamma: by which share the radius shrinks or grows in the first step after a success (the paper's gamma_0).
        loss: what rises (see `holdfast.losses`). The radius before the first success supposes that it is 0 on the boundary,
            as that of the margins is.
    """

    threats = ("linf", "l2", "l1", "l0")
    goal: ClassVar[str] = "minimal"

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        positive("step_size", self.step_size)
        if not 0 < self.gamma < 1:
            raise BadValue(f"gamma is {self.gamma!r}; it must lie between 0 and 1", hint="the paper uses gamma=0.05")

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> Closing:
        zero = rows.x0.new_zeros(len(rows))
        return Closing.at(rows, rows.x0, radius=zero, nearest=zero + torch.inf)

    def step(self, model: Classifier, state: State) -> Closing:
        """Evaluates ``x``, moves the radius towards the boundary, and takes one step inside the new ball."""
        assert isinstance(state, Closing)
        rows, x0, threat = state.rows, state.rows.x0, state.rows.threat
        logits, value, grad = evaluate(model, self.objective, state)
        state = observe_nearest(state, logits, value)
        fools = logits.argmax(1) != rows.y
        distance = threat.distance(x0, state.x)
        nearest = torch.where(fools, torch.minimum(state.nearest, distance), state.nearest)
        found = nearest < torch.inf
        gamma = waning(state.count, self.steps, self.gamma, self.gamma * GAMMA_END, x0)
        shrunk, grown = state.radius * (1 - gamma), state.radius * torch.where(found, 1 + gamma, 1 + GROWTH)
        if threat.name == "l0":
            shrunk = torch.minimum(shrunk.floor(), state.radius - 1)
            grown = torch.maximum(grown.floor(), state.radius + 1)
        elif not found.all():
            # Before the first success: as far as the point where the linearised loss reaches 0.
            grown = torch.where(found, grown, torch.maximum(grown, distance - value / _dual(threat, grad)))
        # No two images are further apart, in any norm, than they have values.
        radius = torch.where(fools, torch.minimum(shrunk, nearest), grown).clamp(0, x0[0].numel())
        length = waning(state.count, self.steps, self.step_size, self.step_size * STEP_END, x0)
        length = torch.where(found, length, self.step_size)
        delta = state.x - x0 + per_row(length, x0) * _direction(threat, state, grad)
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=_inside(threat, x0, delta, radius, found),
            radius=radius,
            nearest=nearest,
            count=count,
            done=count >= self.steps,
        )


def _inside(threat: Threat, x0: Tensor, delta: Tensor, radius: Tensor, found: Tensor) -> Tensor:
    """x0 plus ``delta``, inside box and ball; until a point is ``found``, on the ball's rim (L0 has none)."""
    if threat.name != "l0" and (threat.name == "l2" or not found.all()):
        size = threat.distance(torch.zeros_like(delta), delta).clamp_min(torch.finfo(x0.dtype).tiny)
        share = radius / size
        if threat.name == "l2":
            return (x0 + delta * per_row(torch.where(found, share.clamp_max(1), share), x0)).clamp(0, 1)
        delta = delta * per_row(torch.where(found, 1.0, share.clamp_min(1)), x0)
    return threat.project(x0, x0 + delta, radius=radius)


def _dual(threat: Threat, grad: Tensor) -> Tensor:
    """The gradient's length in the norm dual to the threat's, positive, (R,)."""
    size = grad.flatten(1).abs()
    length = {"linf": size.sum(1), "l2": size.norm(dim=1), "l1": size.amax(1)}[threat.name]
    return length.clamp_min(torch.finfo(grad.dtype).tiny)


def _direction(threat: Threat, state: State, grad: Tensor) -> Tensor:
    """The gradient's direction; in L0 its largest value, not its length, is 1: few pixels have to move all the way."""
    direction = heading(state, grad)
    if threat.name != "l0":
        return direction
    return direction / per_row(direction.flatten(1).abs().amax(1), grad)
