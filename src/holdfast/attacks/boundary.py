"""Boundary: a random walk along the decision boundary, from a misclassified image towards the clean one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.decision import LabelOnly, Walk, apart, enter
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.threats.threat import rows as per_row

FIRST = 0.1  # both lengths at first, as shares of the distance
TURN, NEAR = 1.1, 1.35  # the factors by which they grow and shrink: half of the queries are to succeed


@dataclass(frozen=True)
class Walker(Walk):
    """Where R walks stand: ``turn`` and ``near``, (R,), are the lengths of the next moves, as shares of the distance."""

    turn: Tensor
    near: Tensor


@register
@dataclass(frozen=True)
class Boundary(LabelOnly):
    """Boundary attack: a move around the clean image at the same distance, then one towards it; those that fool stay.

    Source: Brendel, Rauber and Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine
    learning models" (ICLR 2018), algorithm 1 and section 2.
    Departures: every query adapts its length by a factor, instead of counts over many queries; a move around that fools
    stays even if the move towards the image after it does not; the walk begins on the boundary, on the nearest of several
    points (see `holdfast.ascent.decision`).

    Args:
        steps: how many queries of each search.
        starts: how many random images each search tries for its first point.
    """

    threats = ("l2",)

    steps: int = 5000
    starts: int = 30

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("starts", self.starts)

    @property
    def phases(self) -> tuple[Callable[[Any], Any], ...]:
        return (*super().phases, self._turned, self._neared)

    def begin(self, model: Classifier, rows: Rows) -> Walker:
        first = torch.full_like(rows.x0[:, 0, 0, 0], FIRST)
        return Walker.start(rows, turn=first, near=first)

    def landed(self, state: Walker) -> Walker:
        """The next point of the sphere around the clean image: a random move at right angles, put back onto the sphere."""
        x0, radius = state.rows.x0, state.distance
        out = state.found - x0
        move = keys.normal(keys.fold(state.rows.key, state.count), out.shape[1:], dtype=out.dtype)
        move = move - per_row((move * out).flatten(1).sum(1) / radius.square(), out) * out
        out = out + per_row(state.turn * radius / move.flatten(1).norm(dim=1), out) * move
        out = out * per_row(radius / out.flatten(1).norm(dim=1), out)
        return enter(state, 2, x=(x0 + out).clamp(0, 1))

    def _turned(self, state: Walker) -> Walker:
        state = dataclasses.replace(state, turn=_adapted(state.turn, state.fools, TURN).clamp_max(1))
        return apart(state, state.fools.long(), (self.landed, _nearer))

    def _neared(self, state: Walker) -> Walker:
        found = torch.where(per_row(state.fools, state.x), state.x, state.found)
        near = _adapted(state.near, state.fools, NEAR).clamp_max(0.5)
        return self.landed(dataclasses.replace(state, found=found, near=near))


def _nearer(state: Walker) -> Walker:
    x = state.x + per_row(state.near, state.x) * (state.rows.x0 - state.x)
    return enter(state, 3, found=state.x, x=x)


def _adapted(length: Tensor, fools: Tensor, factor: float) -> Tensor:
    return length * torch.where(fools, factor, 1 / factor).to(length.dtype)
