"""Square: random squares of the largest change, kept when the margin falls. Needs scores, no gradients."""

from __future__ import annotations

import dataclasses
import functools
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

REACH = 1.5
"""In L1: how many radii a point lies away before it is projected, so that its smallest changes fall away."""
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
    column of pixels; in L2 and L1 the length that the pixel box cuts off a point is made up for by its other pixels, in L1
    half as much again before the projection. In L1 the bumps fall with the fourth power, as in the authors' code.

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

    @property
    def lasts(self) -> float:
        return 1.0 if self.patience is None else 0.58  # measured on nets of digits and of MNIST: 0.57 and 0.58

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
        pixels = self.share * x.shape[2] * x.shape[3]
        sides = [round((pixels / 2**halvings) ** 0.5) for halvings in range(len(HALVINGS) + 1)]
        halvings = torch.bucketize(query, torch.tensor(HALVINGS, device=count.device))
        return torch.tensor(sides, device=count.device)[halvings]


def _stripes(rows: Rows) -> Tensor:
    """Vertical stripes of -eps or eps, one sign per column and channel."""
    _, c, _, w = rows.x0.shape
    signs = _signs(keys.uniform(keys.fold(rows.key, 0), (c, 1, w), dtype=rows.x0.dtype))
    return (rows.x0 + rows.threat.eps * signs).clamp(0, 1)


def _signs(draws: Tensor) -> Tensor:
    """-1 or 1 from uniform draws."""
    return 2 * (draws >= 0.5).to(draws.dtype) - 1


def _corner(draws: Tensor, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper left corner, (R,) each, of a window of that side, from uniform draws, (R, 2)."""
    top = (draws[:, 0] * (x.shape[2] - side + 1)).long()
    left = (draws[:, 1] * (x.shape[3] - side + 1)).long()
    return top, left


def _linf(state: State, sides: Tensor, key: Tensor) -> Tensor:
    """One square of x0 - eps or x0 + eps, a sign per channel, put onto the best point."""
    x0 = state.rows.x0
    _, c, h, w = x0.shape
    draws = keys.uniform(key, (2 + c,), dtype=torch.float64)
    side = sides.clamp(1, min(h, w))
    top, left = _corner(draws, side, x0)
    i, j = torch.arange(h, device=x0.device) - top[:, None], torch.arange(w, device=x0.device) - left[:, None]
    down, along = (i >= 0) & (i < side[:, None]), (j >= 0) & (j < side[:, None])
    signs = _signs(draws[:, 2:]).to(x0.dtype).view(-1, c, 1, 1)
    square = (down[:, :, None] & along[:, None, :])[:, None]
    return torch.where(square, (x0 + state.rows.threat.eps * signs).clamp(0, 1), state.best)


@functools.lru_cache(maxsize=64)
def _pyramid(side: int, power: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The paper's eta: two bumps of opposite sign, one above the other, of length 1 together; (side, side)."""

    def bump(height: int, width: int) -> Tensor:
        grid = torch.zeros(height, width, dtype=dtype)
        i, j = height // 2, width // 2
        for k in range(max(i, j) + 1):
            grid[max(i - k, 0) : i + k + 1, max(j - k, 0) : j + k + 1] += 1 / (k + 1) ** (4 if power == 1 else 2)
        return grid / grid.norm(p=power)

    if side == 1:
        return torch.ones(1, 1, dtype=dtype, device=device)
    upper = side // 2
    both = torch.cat([bump(upper, side), -bump(side - upper, side)])
    return (both / both.norm(p=power)).to(device)


def _power(threat: Threat) -> int:
    return 1 if threat.name == "l1" else 2


def _mass(x: Tensor, power: int) -> Tensor:
    """The length of each channel to that power, (R, C, 1, 1)."""
    return (x.abs() if power == 1 else x.square()).sum((2, 3), keepdim=True)


def _length(mass: Tensor, power: int) -> Tensor:
    return mass if power == 1 else mass.sqrt()


def _tiles(rows: Rows) -> Tensor:
    """A grid of five by five pyramids with random signs, in the middle."""
    x0 = rows.x0
    _, c, h, w = x0.shape
    side = max(min(h, w) // 5, 1)
    down, along = h // side, w // side
    pyramid = _pyramid(side, _power(rows.threat), x0.dtype, x0.device)
    signs = _signs(keys.uniform(keys.fold(rows.key, 0), (c, down, along), dtype=x0.dtype))
    tiles = signs[:, :, :, None, :, None] * pyramid[:, None, :]
    top, left = h % side // 2, w % side // 2
    delta = torch.zeros_like(x0)
    delta[:, :, top : top + down * side, left : left + along * side] = tiles.view(-1, c, down * side, along * side)
    return _filled(rows, delta)


def _filled(rows: Rows, delta: Tensor) -> Tensor:
    """x0 plus ``delta`` stretched so that it has length eps inside the box, or nearly."""
    x0, threat = rows.x0, rows.threat
    if threat.name == "l1":
        short = REACH * threat.eps / threat.distance(x0, (x0 + delta).clamp(0, 1)).clamp_min(1e-12)
        return threat.project(x0, x0 + per_row(short.clamp_min(1), x0) * delta)
    # Once to the length itself, once more to make up for most of what the box has cut off.
    for _ in range(2):
        x = (x0 + per_row(threat.eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12), x0) * delta).clamp(0, 1)
        delta = x - x0
    return x


def _moved(state: State, sides: Tensor, key: Tensor) -> Tensor:
    """One window gets a new pyramid and the length that another window and the unused budget hand over (algorithm 3)."""
    rows, x0 = state.rows, state.rows.x0
    threat, power, c = rows.threat, _power(rows.threat), x0.shape[1]
    largest = min(x0.shape[2:])
    side = (sides.clamp_min(3) // 2 * 2 + 1).clamp_max(largest - 1 + largest % 2)
    draws = keys.uniform(key, (5 + c,), dtype=torch.float64)
    first, second = _corner(draws, side, x0), _corner(draws[:, 2:], side, x0)
    signs = _signs(draws[:, 5:]).to(x0.dtype).view(-1, c, 1, 1)
    turned = (draws[:, 4] < 0.5).view(-1, 1, 1, 1)
    delta = state.best - x0
    spare = per_row((threat.eps**power - _mass(delta, power).sum((1, 2, 3))).clamp_min(0) / c, x0)
    channel = torch.arange(c, device=x0.device).view(1, -1, 1, 1)
    for one in side.unique().tolist():
        chosen = (side == one).nonzero()[:, 0]
        place = torch.arange(one, device=x0.device)

        def window(corner: tuple[Tensor, Tensor], chosen: Tensor = chosen, place: Tensor = place) -> tuple[Tensor, ...]:
            i, j = (each[chosen, None] + place for each in corner)
            return chosen.view(-1, 1, 1, 1), channel, i[:, None, :, None], j[:, None, None, :]

        to, source = window(first), window(second)
        old = delta[to]
        held = _mass(old, power)
        delta[to] = 0  # where the windows overlap, their length counts once
        given = _mass(delta[source], power)
        delta[source] = 0
        pyramid = _pyramid(one, power, x0.dtype, x0.device)
        fresh = torch.where(turned[chosen], pyramid.T, pyramid) * signs[chosen]
        fresh = fresh + old / _length(held, power).clamp_min(1e-12)
        length = _length(spare[chosen] + held + given, power) * (c if power == 1 else 1)
        delta[to] = fresh * (length / _length(_mass(fresh, power), power).clamp_min(1e-12))
    return _filled(rows, delta)
