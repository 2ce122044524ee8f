"""DDN: gradient steps on a sphere around the image that shrinks or grows with every verdict."""

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


@dataclass(frozen=True)
class Sphere(State):
    """Where R searches stand; ``radius``, (R,), is that of the sphere on which ``x`` lies."""

    radius: Tensor


@register
@dataclass(frozen=True)
class DDN(Attack):
    """Decoupled direction and norm: unit steps along the gradient, then back onto a sphere whose radius is searched.

    Source: Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses"
    (CVPR 2019), algorithm 1, with the step's length falling along half a cosine to a hundredth.
    Departures: the found points are not rounded to pixel levels; where the gradient vanishes, the direction is random.

    Args:
        steps: how many steps.
        radius: of the first sphere.
        gamma: by which share the radius shrinks or grows in every step.
        step_size: the Euclidean length of the first step (the paper's alpha).
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("l2",)
    goal: ClassVar[str] = "minimal"

    steps: int = 100
    radius: float = 1.0
    gamma: float = 0.05
    step_size: float = 1.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        positive("radius", self.radius)
        positive("step_size", self.step_size)
        if not 0 < self.gamma < 1:
            raise BadValue(f"gamma is {self.gamma!r}; it must lie between 0 and 1", hint="the paper uses gamma=0.05")

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> Sphere:
        return Sphere.at(rows, rows.x0, radius=rows.x0.new_full((len(rows),), self.radius))

    def step(self, model: Classifier, state: State) -> Sphere:
        """Evaluates ``x``; the sphere shrinks if it fools and grows if it does not; one step, then onto the sphere."""
        assert isinstance(state, Sphere)
        x0 = state.rows.x0
        logits, value, grad = evaluate(model, self.objective, state)
        state = observe_nearest(state, logits, value)
        fools = logits.argmax(1) != state.rows.y
        factor = torch.where(fools, 1 - self.gamma, 1 + self.gamma).to(x0.dtype)
        radius = (state.radius * factor).clamp_max(x0[0].numel() ** 0.5)  # no two images are further apart
        length = waning(state.count, self.steps, self.step_size, 0.01 * self.step_size, x0)
        delta = state.x - x0 + per_row(length, x0) * heading(state, grad)
        size = delta.flatten(1).norm(dim=1)
        x = (x0 + delta * per_row(radius / size.clamp_min(torch.finfo(x0.dtype).tiny), x0)).clamp(0, 1)
        count = state.count + 1
        return dataclasses.replace(state, x=x, radius=radius, count=count, done=count >= self.steps)
