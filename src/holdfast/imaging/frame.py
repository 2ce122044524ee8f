"""Frames: images with one more pixel on every side, and sums over 3 x 3."""

from __future__ import annotations

import torch
from torch import Tensor


def framed(x: Tensor, *, mirror: bool = False) -> Tensor:
    """(N,H+2,W+2): images (N,H,W) with their edge repeated, or with the pixel before the edge where it is a mirror."""
    over = int(mirror)
    x = torch.cat([x[:, over : over + 1], x, x[:, x.shape[1] - 1 - over : x.shape[1] - over]], 1)
    return torch.cat([x[..., over : over + 1], x, x[..., x.shape[2] - 1 - over : x.shape[2] - over]], 2)


def sum_of_nine(framed: Tensor) -> Tensor:
    """(N,H,W): the sums over 3 x 3 of an image with a frame."""
    rows = framed[:, :-2] + framed[:, 1:-1] + framed[:, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
