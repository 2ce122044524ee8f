"""DeepFool: steps onto the nearest linearised boundary until the label changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.linearised import Look, look, moved
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Walk(Look):
    """Where R searches stand. Once ``far``, a point that fools, is found, the line to it from ``near`` is halved.

    Args:
        near: a point that does not fool, (R, C, H, W); the clean image at first.
        far: a point that fools, (R, C, H, W).
        halved: how often the line was halved, (R,) int64; -1 while no point that fools is known.
    """

    near: Tensor
    far: Tensor
    halved: Tensor


@register
@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool: steps onto the nearest of the linearised class boundaries until the label changes.

    Source: Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep neural networks"
    (CVPR 2016), algorithm 2; section 3.4 for other norms.
    Departures: every point is clipped to the pixel box, and values at its edge that a step would push outwards are left out
    of that step; the classes looked at are those of the largest logits at each point, not on the clean image; the overshoot
    is part of every step; the line from the clean image to the point found is halved.

    Args:
        steps: how many times a search moves at most.
        candidates: how many wrong classes it looks at before it moves, one forward and one gradient each; a model of K
            classes has K - 1.
        overshoot: how much further than the boundary a step goes, as a share of the step (the paper's eta).
        halvings: how often the line from the clean image to the point found is halved; 0 keeps that point, as in the paper.
    """

    threats = ("linf", "l2")
    goal: ClassVar[str] = "minimal"

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02
    halvings: int = 10

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("candidates", self.candidates)
        for name, meaning in (("overshoot", "the paper uses overshoot=0.02"), ("halvings", "0 keeps the point found")):
            if not getattr(self, name) >= 0:
                raise BadValue(f"{name} is {getattr(self, name)!r}; it must not be negative", hint=meaning)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.steps * self.candidates + self.halvings

    def begin(self, model: Classifier, rows: Rows) -> State:
        more = {"near": rows.x0, "far": rows.x0, "halved": torch.full_like(rows.y, -1)}
        return Walk.at(rows, rows.x0, **Look.fields(rows, self.candidates), **more)

    def step(self, model: Classifier, state: State) -> State:
        """Looks at one class, and moves after the last; or halves the line to a point that fools."""
        assert isinstance(state, Walk)
        state, seen = look(model, state, state.rows.threat)
        state = observe_nearest(state, seen.logits, losses.margin(seen.logits, state.rows.y, state.rows.target))
        fools = seen.logits.argmax(1) != state.rows.y
        found = fools | (state.halved >= 0)
        near = torch.where(per_row(found & ~fools, state.x), state.x, state.near)
        far = torch.where(per_row(fools, state.x), state.x, state.far)
        onwards = (state.x + (1 + self.overshoot) * state.move).clamp(0, 1)
        x = torch.where(per_row(found, onwards), (near + far) / 2, onwards)
        count, halved = state.count + 1, torch.where(found, state.halved + 1, state.halved)
        wide = min(self.candidates, seen.logits.shape[1] - 1)
        stuck = seen.complete & torch.isinf(state.length)
        done = torch.where(found, halved >= self.halvings, stuck | (count >= self.steps * wide))
        state = moved(state, found | seen.complete, x)
        return dataclasses.replace(state, near=near, far=far, halved=halved, count=count, done=done)
