"""Square: random squares of the largest change, kept when the margin falls. Needs scores, no gradients."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, positive
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share of changed pixels is halved, for 10,000 queries (Andriushchenko et al. 2020, section 5)."""


@dataclass(frozen=True)
class Draws(State):
    """Where R searches stand; ``mark``, (R,): the margin at the last doubling of queries; ``gain``, (R,): what that took."""

    mark: Tensor
    gain: Tensor


@register
@dataclass(frozen=True)
class Square(Attack):
    """Square attack: random search over squares of the largest change; a square stays when it lowers the margin.

    Source: Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random search"
    (ECCV 2020), algorithms 1 to 3; for L1, Croce and Hein, "Mind the box" (ICML 2021), section 5.
    Departures: every row draws its own squares, so that no verdict depends on the batch; squares reach the last row and
    column of pixels; a point is projected onto ball and box together.

    Args:
        steps: how many queries of each search.
        restarts: how many searches of each sample.
        share: the share of pixels that the first squares change (the paper's p).
        rescale: stretch the schedule of the squares' sizes, made for 10,000 queries, to ``steps``; AutoAttack does not.
        patience: after 5, 10, 20, 40 and 80 % of the queries a search goes on only if its margin is at most ``patience``
            times what as many doublings as are left would take off it, each as much as the last one (or half as much as
            the one before, if that is more). None: all queries are made.
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("linf", "l2", "l1")
    needs = "scores"

    steps: int = 5000
    restarts: int = 1
    share: float = 0.8
    rescale: bool = False
    patience: float | None = None
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        if not 0 < self.share <= 1:
            raise BadValue(f"share is {self.share!r}; it must lie between 0 and 1", hint="AutoAttack uses share=0.8")
        if self.patience is not None:
            positive("patience", self.patience)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def searches(self, ranking: Tensor) -> Tensor:
        return torch.full((len(ranking), self.restarts), -1)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> Draws:
        start = _stripes(rows) if rows.threat.name == "linf" else _tiles(rows)
        none = torch.zeros_like(rows.y, dtype=start.dtype)
        return Draws.at(rows, start, mark=none + torch.inf, gain=none)

    def step(self, model: Classifier, state: State) -> Draws:
        assert isinstance(state, Draws)
        logits = model(state.x)
        first = state.count == 0
        state = observe(state, logits, self.objective(logits, state.rows.y, state.rows.target))
        state = dataclasses.replace(state, mark=torch.where(first, state.margin, state.mark))
        count = state.count + 1
        key = keys.fold(state.rows.key, count)
        sides = self._sides(count, state.x)
        move = _linf if state.rows.threat.name == "linf" else _moved
        state = dataclasses.replace(state, x=move(state, sides, key), count=count, done=count >= self.steps)
        return state if self.patience is None else self._hopeless(state, self.patience)

    def _hopeless(self, state: Draws, patience: float) -> Draws:
        """Ends the searches that stand at a doubling of their queries and gained too little since the last one."""
        marks = torch.tensor([self.steps * 2**k // 20 for k in range(5)], device=state.count.device)
        at = torch.isin(state.count, marks)
        gained = state.mark - state.margin
        gain = torch.where(at, torch.maximum(gained, state.gain / 2), state.gain)
        doublings = (self.steps / state.count).log2()
        hopeless = at & (state.margin > patience * doublings * gain)
        return dataclasses.replace(
            state, gain=gain, mark=torch.where(at, state.margin, state.mark), done=state.done | hopeless
        )

    def _sides(self, count: Tensor, x: Tensor) -> Tensor:
        """The side of each row's next square, (R,) int64."""
        query = count * 10_000 // self.steps if self.rescale else count
        halvings = torch.bucketize(query, torch.tensor(HALVINGS, device=count.device))
        share = self.share * 0.5 ** halvings.to(torch.float64)
        return (share * x.shape[2] * x.shape[3]).sqrt().round().long()


def _stripes(rows: Rows) -> Tensor:
    """Vertical stripes of -eps or eps, one sign per column and channel."""
    _, c, _, w = rows.x0.shape
    return rows.threat.project(rows.x0, rows.x0 + rows.threat.eps * _signs(keys.fold(rows.key, 0), (c, 1, w), rows.x0))


def _signs(key: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return 2 * keys.integers(key, shape, 2).to(like.dtype) - 1


def _window(key: Tensor, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper left corner, (R,) each, of a random window of that side."""
    u = keys.uniform(key, (2,), dtype=torch.float64)
    top = (u[:, 0] * (x.shape[2] - side + 1)).long()
    left = (u[:, 1] * (x.shape[3] - side + 1)).long()
    return top, left


def _inside(top: Tensor, left: Tensor, side: Tensor, x: Tensor) -> Tensor:
    """(R, 1, H, W) bool: the pixels of each row's window."""
    i = torch.arange(x.shape[2], device=x.device)[:, None]
    j = torch.arange(x.shape[3], device=x.device)[None, :]
    top, left, side = (value.view(-1, 1, 1) for value in (top, left, side))
    return ((i >= top) & (i < top + side) & (j >= left) & (j < left + side))[:, None]


def _linf(state: State, sides: Tensor, key: Tensor) -> Tensor:
    """One square of x0 - eps or x0 + eps, a sign per channel, put onto the best point."""
    x0, best = state.rows.x0, state.best
    side = sides.clamp(1, min(x0.shape[2:]))
    square = _inside(*_window(keys.fold(key, 0), side, x0), side, x0)
    sign = _signs(keys.fold(key, 1), (x0.shape[1], 1, 1), x0)
    return torch.where(square, state.rows.threat.project(x0, x0 + state.rows.threat.eps * sign), best)


def _pyramid(side: int, like: Tensor) -> Tensor:
    """The paper's eta: two bumps of opposite sign, one above the other, of length 1 together; (side, side)."""

    def bump(height: int, width: int) -> Tensor:
        grid = like.new_zeros(height, width)
        i, j = height // 2, width // 2
        for k in range(max(i, j) + 1):
            grid[max(i - k, 0) : i + k + 1, max(j - k, 0) : j + k + 1] += 1 / (k + 1) ** 2
        return grid / grid.norm()

    upper = side // 2
    both = torch.cat([bump(upper, side), -bump(side - upper, side)])
    return both / both.norm()


def _norm(x: Tensor, threat: Threat) -> Tensor:
    """The length of each channel, (R, C, 1, 1), in the threat's norm."""
    return (x.abs().sum((2, 3), keepdim=True)) if threat.name == "l1" else x.square().sum((2, 3), keepdim=True).sqrt()


def _tiles(rows: Rows) -> Tensor:
    """A grid of five by five pyramids with random signs, together of length eps."""
    x0 = rows.x0
    _, c, h, w = x0.shape
    side = max(min(h, w) // 5, 1)
    delta = torch.zeros_like(x0)
    pyramid = _pyramid(side, x0) if side > 1 else x0.new_ones(1, 1)
    signs = _signs(keys.fold(rows.key, 0), (c, h // side, w // side), x0)
    for a in range(h // side):
        for b in range(w // side):
            delta[:, :, a * side : (a + 1) * side, b * side : (b + 1) * side] = pyramid * signs[:, :, a, b, None, None]
    return _scaled(rows, delta)


def _scaled(rows: Rows, delta: Tensor) -> Tensor:
    """x0 plus ``delta`` stretched to length eps, inside the set."""
    size = rows.threat.distance(torch.zeros_like(delta), delta).clamp_min(1e-12)
    return rows.threat.project(rows.x0, rows.x0 + delta * per_row(rows.threat.eps / size, delta))


def _moved(state: State, sides: Tensor, key: Tensor) -> Tensor:
    """One window gets a new pyramid and the length that another window and the unused budget hand over (algorithm 3)."""
    rows, x0 = state.rows, state.rows.x0
    threat, c = rows.threat, x0.shape[1]
    largest = min(x0.shape[2:])
    side = (sides.clamp_min(3) // 2 * 2 + 1).clamp_max(largest - 1 + largest % 2)
    delta = state.best - x0
    top, left = _window(keys.fold(key, 0), side, x0)
    first = _inside(top, left, side, x0)
    second = _inside(*_window(keys.fold(key, 1), side, x0), side, x0)
    power = 1 if threat.name == "l1" else 2
    whole = per_row(threat.distance(x0, state.best), x0)
    spare = (threat.eps**power - whole**power).clamp_min(0) / c
    held = _norm(delta * (first | second), threat) ** power
    fresh = torch.zeros_like(x0)
    sign = _signs(keys.fold(key, 2), (c, 1, 1), x0)
    flip = keys.integers(keys.fold(key, 3), (), 2).bool()
    for one in side.unique().tolist():
        pyramid = _pyramid(one, x0)
        for turned in (False, True):
            chosen = ((side == one) & (flip == turned)).nonzero()[:, 0]
            if len(chosen):
                shape = pyramid.T if turned else pyramid
                place = first[chosen].expand(-1, c, -1, -1)
                part = torch.zeros_like(fresh[chosen])
                part[place] = shape.expand(len(chosen), c, one, one).reshape(-1)
                fresh[chosen] = part
    old = delta * first
    old = old / _norm(old, threat).clamp_min(1e-12)
    fresh = fresh * sign + old
    fresh = fresh / _norm(fresh, threat).clamp_min(1e-12) * (spare + held) ** (1 / power)
    delta = torch.where(first, fresh, torch.where(second, 0.0, delta))
    return _scaled(rows, delta) if threat.name == "l2" else threat.project(x0, x0 + delta)
