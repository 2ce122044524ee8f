"""Edges, and how far each pixel is from one: in whole numbers, to the bit as OpenCV finds them."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.imaging.frame import framed

_STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.4), (1, 2, 2.1969), (2, 1, 2.1969))
"""Rows, columns and length of the steps that a way is made of."""


def canny(x: Tensor, least: int, sure: int) -> Tensor:
    """(N,H,W) bool: the edges of grey images (N,H,W) uint8.

    Source: Canny, "A computational approach to edge detection", PAMI 1986, as in OpenCV: Sobel's 3 x 3 gradient with
    the edge's value beyond it, |dx| + |dy| for its size, and of the pixels above ``least`` along the gradient's ridge
    those that touch, through others, one above ``sure``.
    """
    across, down = _sobel(framed(x.to(torch.int16)))
    wide, high = across.abs(), down.abs()
    size = wide + high
    around = functional.pad(size, (1, 1, 1, 1))

    def beside(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + x.shape[1], 1 + column : 1 + column + x.shape[2]]

    wide, high = wide.to(torch.int32), high.to(torch.int32) << 15
    flat = wide * 13573  # 2**15 tan 22.5 degrees
    level, upright = high < flat, high > flat + (wide << 16)
    falling = (across ^ down) < 0
    ridge = level & (size > beside(0, -1)) & (size >= beside(0, 1))
    ridge |= upright & (size > beside(-1, 0)) & (size >= beside(1, 0))
    slant = ~(level | upright)
    ridge |= slant & falling & (size > beside(-1, 1)) & (size > beside(1, -1))
    ridge |= slant & ~falling & (size > beside(-1, -1)) & (size > beside(1, 1))
    weak = ridge & (size > least)
    edges = weak & (size > sure)
    while True:
        grown = _spread(edges) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def distance(edges: Tensor, most: int) -> Tensor:
    """(N,H,W) float32: how many pixels the nearest of ``edges`` (N,H,W) bool is away, ``most`` at most.

    Source: Borgefors, "Distance transformations in digital images", CVGIP 1986: the shortest way in steps of 1, 1.4 and
    2.1969. Within a row of the image the nearest edge is the one with the shortest way from anywhere, so the ways to
    all rows, each over its distance along the row, are all that has to be compared.
    """
    along = (~edges).to(torch.uint8).mul_(most)
    step = 1
    while step <= most:
        before = along.clone()
        along[..., step:] = torch.minimum(along[..., step:], before[..., :-step] + step)
        along[..., :-step] = torch.minimum(along[..., :-step], before[..., step:] + step)
        step *= 2
    height = edges.shape[1]
    rows = functional.pad(along, (0, 0, most, most), value=most)
    ways = _ways(most).to(edges.device)
    shortest = ways[0].index_select(0, along.flatten().to(torch.int64))
    for row in range(1, min(most, height)):
        near = torch.minimum(rows[:, most - row : most - row + height], rows[:, most + row : most + row + height])
        shortest = torch.minimum(shortest, ways[row].index_select(0, near.flatten().to(torch.int64)))
    return shortest.view(along.shape)


@lru_cache(maxsize=8)
def _ways(most: int) -> Tensor:
    """(most, most + 1) float32: the length of the shortest way over so many rows and columns, ``most`` at most."""
    ways = np.full((most + 3, most + 3), np.inf, dtype=np.float32)  # sums are rounded at each step, as in OpenCV
    ways[2, 2] = 0
    for row, column in product(range(2, most + 3), repeat=2):
        longer = (ways[row - down, column - right] + np.float32(far) for down, right, far in _STEPS)
        ways[row, column] = min(ways[row, column], *longer)
    return torch.from_numpy(ways[2:-1, 2:].clip(max=most))


def _sobel(framed: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's gradient along the rows and along the columns, of an image with a frame."""
    rows = framed[:, :-2] + framed[:, 2:] + 2 * framed[:, 1:-1]
    columns = framed[..., :-2] + framed[..., 2:] + 2 * framed[..., 1:-1]
    return rows[..., 2:] - rows[..., :-2], columns[:, 2:] - columns[:, :-2]


def _spread(mask: Tensor) -> Tensor:
    """The pixels that are set or touch, also at a corner, one that is."""
    wide = mask.clone()
    wide[..., 1:] |= mask[..., :-1]
    wide[..., :-1] |= mask[..., 1:]
    high = wide.clone()
    high[:, 1:] |= wide[:, :-1]
    high[:, :-1] |= wide[:, 1:]
    return high
