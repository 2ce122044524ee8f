"""SparseFool: a DeepFool step finds the boundary's plane, then the fewest pixels that reach that plane are moved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.linearised import Look, look, moved, onto
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.l2 import L2
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

GROWTH = 1.05  # how much further away every next plane is put: a search that creeps up to the boundary gets past it
NEAREST = L2(1.0)  # the norm in which the boundary's plane is looked for; its radius says nothing


@dataclass(frozen=True)
class Walk(Look):
    """Where R searches stand.

    Args:
        base: the sparse point, (R, C, H, W), from which DeepFool looks for the boundary.
        strides: how often DeepFool has moved away from it, (R,) int64; 0 at the next sparse point.
        bases: how many sparse points there were, (R,) int64.
        reach: the next plane's distance as a multiple of DeepFool's, (R,).
        normal: the normal of the last plane that was found, (R, C, H, W).
        offset: what a move from ``base`` along the normal gains when it reaches the plane and the overshoot, (R,).
        low: the largest share of ``offset`` that is known not to fool, (R,).
        high: the smallest that does, (R,).
        halved: how often the shares between were halved, (R,) int64; -1 while no sparse point fools.
    """

    base: Tensor
    strides: Tensor
    bases: Tensor
    reach: Tensor
    normal: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    halved: Tensor


@register
@dataclass(frozen=True)
class SparseFool(Attack):
    """SparseFool: moves as few pixels as reach the plane that DeepFool finds to be the boundary, until the label changes.

    Source: Modas, Moosavi-Dezfooli and Frossard, "SparseFool: a few pixels make a big difference" (CVPR 2019), algorithms 1
    and 2; DeepFool as in `holdfast.attacks.deep_fool`, without its halvings.
    Departures: the plane's normal is taken where DeepFool first fools, also where lambda puts the plane further away; the
    linear problem is solved exactly, in L0 for whole pixels, each of which goes as far as it can; no value is moved back
    towards the clean image; lambda grows by 5 % with every sparse point; the way from the last sparse point that does not
    fool to the first that does, pixel after pixel, is halved.

    Args:
        steps: how many sparse points a search tries at most.
        strides: how many times DeepFool moves at most to find the boundary from each.
        candidates: how many wrong classes it looks at before it moves, one forward and one gradient each.
        reach: how far the first plane is put away, as a multiple of DeepFool's distance (the paper's lambda).
        overshoot: how much further than the plane a point goes, as a share of the way.
        halvings: how often the last way is halved; 0 keeps the first point that fools, as in the paper.
    """

    threats = ("l1", "l0")
    goal: ClassVar[str] = "minimal"

    steps: int = 20
    strides: int = 10
    candidates: int = 3
    reach: float = 1.0
    overshoot: float = 0.02
    halvings: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "strides", "candidates"):
            at_least_one(name, getattr(self, name))
        if not self.reach >= 1:
            raise BadValue(f"reach is {self.reach!r}; it must be at least 1", hint="the paper uses 1 to 3")
        for name, meaning in (("overshoot", "the authors use overshoot=0.02"), ("halvings", "0 keeps the point found")):
            if not getattr(self, name) >= 0:
                raise BadValue(f"{name} is {getattr(self, name)!r}; it must not be negative", hint=meaning)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.steps * (self.strides * self.candidates + 1) + 1 + self.halvings

    def begin(self, model: Classifier, rows: Rows) -> State:
        none, number = torch.zeros_like(rows.y), torch.full_like(rows.y, 0, dtype=rows.x0.dtype)
        return Walk.at(
            rows,
            rows.x0,
            **Look.fields(rows, self.candidates),
            base=rows.x0,
            strides=none,
            bases=none,
            reach=number + self.reach,
            normal=torch.zeros_like(rows.x0),
            offset=number,
            low=number,
            high=number + 1,
            halved=none - 1,
        )

    def step(self, model: Classifier, state: State) -> State:
        """Looks at one class, and moves after the last; at the boundary it goes back and moves the fewest pixels."""
        assert isinstance(state, Walk)
        threat, first, here = state.rows.threat, state.place == 0, state.x
        state, seen = look(model, state, NEAREST)
        state = observe_nearest(state, seen.logits, losses.margin(seen.logits, state.rows.y, state.rows.target))
        fools = seen.logits.argmax(1) != state.rows.y
        sparse = first & (state.strides == 0)
        halving = (state.halved >= 0) | (sparse & fools)
        # DeepFool is at the boundary, or as near to it as it comes.
        there = first & (state.strides > 0) & (fools | (state.strides >= self.strides))
        base = torch.where(per_row(sparse & ~halving, here), here, state.base)
        way = (seen.grad * (here - base)).flatten(1).sum(1)
        # What was moved is not moved back: else two planes can pass the same pixel to and fro.
        onwards = seen.grad * ((base - state.rows.x0) * seen.grad >= 0)
        state = dataclasses.replace(
            state,
            base=base,
            strides=torch.where(there, 0, state.strides + (seen.complete & ~halving & ~there)),
            bases=state.bases + there,
            reach=torch.where(there, state.reach * GROWTH, state.reach),
            normal=torch.where(per_row(there, here), onwards, state.normal),
            offset=torch.where(there, (1 + self.overshoot) * state.reach * way, state.offset),
            low=torch.where(halving & ~fools, _share(state), state.low),
            high=torch.where(halving & fools, _share(state), state.high),
            halved=torch.where(halving, state.halved + 1, state.halved),
            count=state.count + 1,
        )
        reduced = state.base + onto(threat, state.base, state.normal, _share(state) * state.offset)
        ahead = here + (1 + self.overshoot) * state.move
        stuck = ~halving & ~there & seen.complete & torch.isinf(state.length)
        spent = torch.where(halving, state.halved >= self.halvings, (state.bases >= self.steps) & sparse)
        again = there | halving | seen.complete
        x = torch.where(per_row(there | halving, here), reduced, ahead).clamp(0, 1)
        return dataclasses.replace(moved(state, again, x), done=stuck | spent)


def _share(state: Walk) -> Tensor:
    """The share of the last way that is evaluated, (R,): all of it until that fools."""
    return torch.where(state.halved < 0, state.high, (state.low + state.high) / 2)
