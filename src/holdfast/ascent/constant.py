"""The search for the constant that weighs the loss against the distance, in rounds; a part of each row's own state."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from holdfast.ascent.state import Rows, State
from holdfast.threats.threat import rows as per_row

W = TypeVar("W", bound="Weighed")

FACTOR = 10.0  # Carlini and Wagner's own: the step of the constant until it is bracketed
SMALLEST, LARGEST = 1e-10, 1e10


@dataclass(frozen=True)
class Weighed(State):
    """Where R searches in rounds stand; every round descends on distance + constant * loss with another constant.

    Args:
        constant: of this round, (R,).
        low: the largest constant that was too small, (R,); 0 if none was.
        high: the smallest that was large enough, (R,); inf if none was.
        round: the rounds that have ended, (R,) int64.
        tick: the steps of this round, (R,) int64.
        hit: whether a point fooled in this tenth of the round, (R,) bool.
        before: what is minimised, at the end of the tenth before, (R,); inf in the first.
        nearest: the nearest point that fooled, within eps or not, (R, C, H, W); the clean image before the first.
        reach: its distance, (R,); inf before the first.
    """

    constant: Tensor
    low: Tensor
    high: Tensor
    round: Tensor
    tick: Tensor
    hit: Tensor
    before: Tensor
    nearest: Tensor
    reach: Tensor

    @classmethod
    def opening(cls: type[W], rows: Rows, constant: float, **more: Any) -> W:
        """The state before the first round, which begins at the clean image; ``more`` fills a subclass's fields."""
        zero, none = rows.x0.new_zeros(len(rows)), torch.zeros_like(rows.y)
        return cls.at(
            rows,
            rows.x0,
            constant=zero + constant,
            low=zero,
            high=zero + torch.inf,
            round=none,
            tick=none,
            hit=none.bool(),
            before=zero + torch.inf,
            nearest=rows.x0,
            reach=zero + torch.inf,
            **more,
        )


def recorded(state: W, fools: Tensor, distance: Tensor) -> W:
    """The state after ``state.x`` was evaluated: whether it ``fools`` (R,) and its ``distance`` (R,)."""
    nearer = fools & (distance < state.reach)
    return dataclasses.replace(
        state,
        hit=state.hit | fools,
        nearest=torch.where(per_row(nearer, state.x), state.x, state.nearest),
        reach=torch.where(nearer, distance, state.reach),
    )


def advanced(state: W, total: Tensor, steps: int, *, abort: bool) -> tuple[W, Tensor]:
    """One step later, and whether a round ended with it, (R,) bool; then the state has the constant of the next one.

    ``total``, (R,), is what is minimised, at ``state.x``; with ``abort`` a round ends that has not lowered it in a tenth of
    its ``steps``. A constant was large enough if a point fooled in the last tenth of its round: the first steps are too long
    for a small distance and can cross the boundary with any constant.
    """
    tenth = (state.tick > 0) & (state.tick % max(1, steps // 10) == 0)
    ended = state.tick >= steps - 1
    if abort:
        ended = ended | (tenth & (total > 0.9999 * state.before))
    high = torch.where(ended & state.hit, torch.minimum(state.high, state.constant), state.high)
    low = torch.where(ended & ~state.hit, torch.maximum(state.low, state.constant), state.low)
    between = torch.where(low > 0, (low * high).sqrt(), high / FACTOR)
    constant = torch.where(high < torch.inf, between, state.constant * FACTOR).clamp(SMALLEST, LARGEST)
    state = dataclasses.replace(
        state,
        constant=torch.where(ended, constant, state.constant),
        low=low,
        high=high,
        round=state.round + ended,
        tick=torch.where(ended, 0, state.tick + 1),
        hit=state.hit & ~ended & ~tenth,
        before=torch.where(tenth, total, state.before).masked_fill(ended, torch.inf),
        count=state.count + 1,
    )
    return state, ended
