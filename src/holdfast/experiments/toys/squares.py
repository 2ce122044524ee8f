"""Squares searched whole: by a grid over each, and by an enclosure of all that the net can say between its points.

A square that the grid breaks is broken. One that the enclosure proves safe is safe. What is left is open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.experiments.perceptron import Perceptron

ROUNDING = 1e-9
"""A proven margin must be larger than what float64 loses on the way."""
HALVINGS, MOST = 12, 200_000
"""So often squares in which it is unknown are cut into four, while there are at most so many of them."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about the squares of n points.

    Args:
        margin: the smallest logit margin of the class over the other on each grid, (n,).
        where: where it stands, (n, 2).
        broken: whether the grid holds a point of another class, (n,) bool.
        proven: whether every point of the square has the right one, (n,) bool.
    """

    margin: Tensor
    where: Tensor
    broken: Tensor
    proven: Tensor


def searched(net: Perceptron, x: Tensor, y: Tensor, eps: float, side: int) -> Truth:
    """Searches the squares of half side ``eps`` around points.

    Args:
        net: in float64.
        x: the points, (n, 2) float64, their squares inside [0, 1].
        y: their classes, (n,) int64, 0 or 1.
        side: points on a side of each grid, from rim to rim; odd.
    """
    steps = torch.linspace(-1, 1, side, dtype=x.dtype) * eps
    points = x[:, None] + torch.cartesian_prod(steps, steps)
    broken = torch.zeros(len(x), dtype=torch.bool)
    proven, margin, where = broken.clone(), x.new_empty(len(x)), torch.empty_like(x)
    with torch.no_grad():
        for place, grid in enumerate(points):
            logits = net(grid[:, None, None])
            margins = _margin(logits, int(y[place]))
            worst = margins.argmin()
            margin[place], where[place] = margins[worst], grid[worst]
            broken[place] = bool((logits.argmax(1) != y[place]).any())
        safe = ~broken
        proven[safe] = _proven(net, x[safe], y[safe], eps)
    return Truth(margin, where, broken, proven)


def lowest(net: Perceptron, centres: Tensor, half: float, y: Tensor) -> Tensor:
    """A lower bound (n,) of the margin in the cells of that half side around centres (n, 2), which may be loose.

    A unit is centre + along . e + a rest in [-rest, rest], e in [-1, 1]^2: exact through linear layers, and through a ReLU
    that may be on or off the narrowest strip around it.

    Source: Singh et al., "Fast and effective robustness certification" (NeurIPS 2018), its ReLU. Departure: new error
    terms are added up at once instead of being kept apart.
    """
    centre = (2 * centres - 1) * net.reach
    along = (2 * half * net.reach * torch.eye(2, dtype=centre.dtype)).expand(len(centre), 2, 2)
    rest = torch.zeros_like(centre)
    *hidden, last = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    for layer in hidden:
        centre, along, rest = layer(centre), along @ layer.weight.T, rest @ layer.weight.T.abs()
        reach = along.abs().sum(1) + rest
        low, high = centre - reach, centre + reach
        # A unit that does not move, behind units that are all off, has no strip: it is on or off.
        slope = torch.where(high > low, (high.relu() - low.relu()) / (high - low), (low > 0).to(low.dtype))
        lift = (low.relu() - slope * low) / 2
        centre, along, rest = slope * centre + lift, slope[:, None] * along, slope * rest + lift
    sign = 1.0 - 2.0 * y
    weight, bias = last.weight[0] - last.weight[1], last.bias[0] - last.bias[1]
    return sign * (centre @ weight + bias) - (along @ weight).abs().sum(1) - rest @ weight.abs()


def _proven(net: Perceptron, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Whether every point of the squares around points (n, 2) has its class, (n,) bool.

    Squares in which it is unknown are cut into four, again and again; one with a wrong middle has lost, whole.
    """
    cells, owner, half, wrong = x, torch.arange(len(x)), eps, torch.zeros(len(x), dtype=torch.bool)
    quarters = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=x.dtype)] * 2)
    for turn in range(HALVINGS + 1):
        if turn:
            cells, owner = (cells[:, None] + half * quarters).flatten(0, 1), owner.repeat_interleave(4)
            half /= 2
        wrong[owner[net(cells[:, None, None]).argmax(1) != y[owner]]] = True
        unknown = (lowest(net, cells, half, y[owner]) <= ROUNDING) & ~wrong[owner]
        cells, owner = cells[unknown], owner[unknown]
        if len(cells) > MOST // 4:
            break
    return ~wrong & (torch.bincount(owner, minlength=len(x)) == 0)


def _margin(logits: Tensor, label: int) -> Tensor:
    return logits[:, label] - logits[:, 1 - label]
