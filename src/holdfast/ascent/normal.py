"""Following the normal of the decision boundary, estimated from labels: what HopSkipJump and GeoDA share."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.decision import LabelOnly, Walk, apart, enter
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows
from holdfast.foundation.errors import BadValue
from holdfast.threats.threat import rows as per_row

WIDTH = 0.1
"""How far the queries of an estimate lie from the boundary point, as a share of its distance from the clean image."""


@dataclass(frozen=True)
class Guided(Walk):
    """Where R searches stand.

    Args:
        round: the estimates so far, (R,) int64.
        votes: the sum of the estimate's moves, each with its sign: did it fool? (R, C, H, W)
        drift: the sum of its moves without the sign, (R, C, H, W).
        won: the sum of the signs, (R,).
        way: the unit direction that the last estimate gave, (R, C, H, W).
        stride: how far along it the last query went, (R,).
    """

    round: Tensor
    votes: Tensor
    drift: Tensor
    won: Tensor
    way: Tensor
    stride: Tensor


class ByNormal(LabelOnly):
    """An attack that estimates the boundary's normal at a point, follows it, and bisects back to the boundary.

    The estimate is that of Chen et al. 2020, equation 16: random moves, weighted with whether they fool, less their mean.
    An attack of this kind has the fields `samples` and `frequencies`, too.
    """

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many queries make the first estimate; estimate t has sqrt(t) times as many."""

    @property
    @abstractmethod
    def frequencies(self) -> float:
        """The share of the frequencies along each axis, the lowest, that the moves of an estimate are made of."""

    @abstractmethod
    def follow(self, state: Guided) -> Guided:
        """The searches with their first query along ``way``."""

    @abstractmethod
    def missed(self, state: Guided) -> Guided:
        """The searches whose query along ``way`` did not fool, with another one, or with another estimate."""

    @property
    def phases(self) -> tuple[Callable[[Any], Any], ...]:
        return (*super().phases, self._estimated, self._followed)

    def begin(self, model: Classifier, rows: Rows) -> Guided:
        none, share = torch.zeros_like(rows.x0), torch.zeros_like(rows.x0[:, 0, 0, 0])
        return Guided.start(
            rows, round=torch.zeros_like(rows.y), votes=none, drift=none, won=share, way=none, stride=share
        )

    def landed(self, state: Guided) -> Guided:
        none = torch.zeros_like(state.x)
        state = enter(state, 2, votes=none, drift=none, won=torch.zeros_like(state.won), round=state.round + 1)
        return self._sampled(state)

    def _sampled(self, state: Guided) -> Guided:
        key, like = keys.fold(state.rows.key, state.count), state.x
        if self.frequencies < 1:
            move = smooth_noise(key, like, self.frequencies)
        else:  # in L2 as well: of so many values the direction is as good as uniform, and drawn in a third of the time
            move = 2 * keys.uniform(key, like.shape[1:], dtype=like.dtype) - 1
        # Of length 1, or as long as values of size 1 / sqrt(3), the uniform ones above, would be.
        length = (like[0].numel() / 3) ** 0.5 if state.rows.threat.name == "linf" else 1.0
        length = WIDTH * length * state.distance / move.flatten(1).norm(dim=1)
        return dataclasses.replace(state, x=(state.found + per_row(length, move) * move).clamp(0, 1))

    def _estimated(self, state: Guided) -> Guided:
        vote, move = torch.where(state.fools, 1.0, -1.0).to(state.x.dtype), state.x - state.found
        votes, drift = state.votes + per_row(vote, move) * move, state.drift + move
        state = dataclasses.replace(state, votes=votes, drift=drift, won=state.won + vote)
        enough = state.made >= (self.samples * state.round.to(torch.float64).sqrt()).long()
        return apart(state, enough.long(), (self._sampled, self._aimed))

    def _aimed(self, state: Guided) -> Guided:
        mean = state.won / state.made
        mean = torch.where(mean.abs() == 1, 0, mean)  # where all agree, the mean would leave nothing
        way = state.rows.threat.steepest(state.votes - per_row(mean, state.drift) * state.drift)
        return self.follow(enter(state, 3, way=way))

    def _followed(self, state: Guided) -> Guided:
        return apart(state, state.fools.long(), (self.missed, self.bisect))


def smooth_noise(key: Tensor, like: Tensor, share: float) -> Tensor:
    """Gaussian noise of the shape of ``like``, made of the lowest frequencies of a cosine transform (DCT-II)."""
    _, c, h, w = like.shape
    high, wide = (max(1, round(share * size)) for size in (h, w))
    noise = keys.normal(key, (c, high, wide), dtype=like.dtype)
    # Wave by wave: a matrix product would round a row differently in another batch.
    upright = torch.zeros_like(like[..., :wide])
    for i in range(high):
        upright = upright + noise[:, :, i, None] * _wave(i, h, like)[:, None]
    total = torch.zeros_like(like)
    for j in range(wide):
        total = total + upright[..., j, None] * _wave(j, w, like)
    return total


def _wave(number: int, size: int, like: Tensor) -> Tensor:
    place = torch.arange(size, dtype=torch.float64, device=like.device) + 0.5
    wave = torch.cos(math.pi * number / size * place) * (2 if number else 1) ** 0.5
    return wave.to(like.dtype)


def check_frequencies(value: float) -> None:
    """Refuses anything but a share above 0."""
    if not 0 < value <= 1:
        raise BadValue(
            f"frequencies is {value!r}; it must lie above 0 and be at most 1", hint="1.0 is all, 0.5 the lower half"
        )
