"""Turning, scaling, shearing, tilting and moving whole batches, one map per frame, by the rules of Pillow and OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Matrix = tuple[float, ...]
"""From where a pixel comes out to where it is read: 6 numbers of an affine map, or 9 of a projective one, by rows."""

_LIFT = 2.0**-12
"""Added to levels before they are truncated: more than the rounding of float32 takes away from a weighted mean."""


def affine(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """(N,F,C,H,W): images (N,C,H,W) uint8 under each of F affine maps, bilinear, truncated, black outside.

    Source: Pillow's transform with the BILINEAR filter: the centre of the first pixel is (0.5, 0.5); what is read within
    half a pixel of the edge is the edge's value, what is read beyond is black.
    """
    high, wide = x.shape[-2:]

    def places(matrix: Matrix) -> tuple[Tensor, Tensor]:
        a, b, c, d, e, f = matrix
        across = torch.arange(wide, dtype=torch.float64) + 0.5
        down = (torch.arange(high, dtype=torch.float64) + 0.5)[:, None]
        u, v = a * across + b * down + c, d * across + e * down + f
        inside = (u >= 0) & (u < wide) & (v >= 0) & (v < high)
        u, v = (u - 0.5).clamp_(0, wide - 1), (v - 0.5).clamp_(0, high - 1)
        return u.where(inside, -2), v

    return _read(x, map(places, matrices), _LIFT)


def projective(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """(N,F,C,H,W): images (N,C,H,W) uint8 under each of F projective maps, bilinear, rounded, black outside.

    Source: warpPerspective of OpenCV before version 5: the centre of the first pixel is (0, 0), places are rounded to
    1/32 of a pixel, and outside lie black pixels that are read like any other.
    """
    high, wide = x.shape[-2:]

    def places(matrix: Matrix) -> tuple[Tensor, Tensor]:
        a, b, c, d, e, f, g, h, i = matrix
        across = torch.arange(wide, dtype=torch.float64)
        down = torch.arange(high, dtype=torch.float64)[:, None]
        scale = 32 / (g * across + h * down + i)
        u, v = (a * across + b * down + c) * scale, (d * across + e * down + f) * scale
        return u.round_() / 32, v.round_() / 32

    return _read(x, map(places, matrices), 0.5)


def shift(x: Tensor, columns: int) -> Tensor:
    """Images (N,C,H,W) moved to the right by that many columns, to the left if negative; black comes in."""
    wide = x.shape[-1]
    columns = max(-wide, min(wide, columns))
    return functional.pad(x[..., max(0, -columns) : wide - max(0, columns)], (max(0, columns), max(0, -columns)))


def about_centre(size: tuple[int, int], *, angle: float = 0.0, scale: float = 1.0, shear: float = 0.0) -> Matrix:
    """The affine map that turns clockwise by ``angle`` degrees, enlarges by ``scale``, and slants by ``shear`` degrees.

    Source: torchvision 0.2, with which the benchmark was made. Its centre lies half a pixel to the right of and below the
    image's own, and its shear also makes the image lower, by the cosine of the angle.
    """
    turn, slant = math.radians(angle), math.radians(shear)
    rows = (math.cos(turn + slant), math.sin(turn + slant)), (-math.sin(turn), math.cos(turn))
    factor = 1.0 / scale / (rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0])
    y, x = (side * 0.5 + 0.5 for side in size)
    (a, b), (d, e) = ((factor * one, factor * other) for one, other in rows)
    # In this order: whether a place lies on the edge or beyond it hangs on the last bit.
    return a, b, a * -x + b * -y + x, d, e, d * -x + e * -y + y


def _read(x: Tensor, places: Iterable[tuple[Tensor, Tensor]], lift: float) -> Tensor:
    """The images read bilinearly at (columns, rows) of each frame, (H,W) float64 each; black outside; ``lift`` added."""
    high, wide = x.shape[-2:]
    # On planes whose sides are powers of 2 whole and half pixels survive the unit of grid_sample, float32 in [-1, 1].
    tall, broad = (1 << (side - 1).bit_length() for side in (high, wide))
    planes = functional.pad(x.to(torch.float32), (0, broad - wide, 0, tall - high)).view(1, -1, tall, broad)
    frames = []
    for u, v in places:
        grid = torch.stack([(2 * u + 1) / broad - 1, (2 * v + 1) / tall - 1], -1)
        grid = grid.to(x.device, torch.float32)[None]
        found = functional.grid_sample(planes, grid, align_corners=False, padding_mode="zeros")
        frames.append(found.add_(lift).to(torch.uint8).view(x.shape))
    return torch.stack(frames, 1)
