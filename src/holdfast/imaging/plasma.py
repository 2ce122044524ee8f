"""Plasma: clouds by midpoint displacement."""

from __future__ import annotations

import torch
from torch import Tensor


def side_for(height: int, width: int) -> int:
    """The side of the smallest plasma that covers an image: a power of two."""
    return 1 << (max(height, width, 2) - 1).bit_length()


def plasma(noise: Tensor, side: int, decay: float) -> Tensor:
    """Clouds (N, side, side) float32 in [0, 1], on a torus, from uniform draws ``noise`` (N, side**2 - 1) in [0, 1).

    Source: Fournier, Fussell and Carpenter, "Computer rendering of stochastic models", 1982 (diamond-square), as in
    the generator of ImageNet-C: squares' centres, then the middles of their upper edges, then of their left edges, all
    the mean of four neighbours plus noise in +-w**2, where w begins at 100 and shrinks by ``decay`` from each scale to
    the next. The draws are taken in this order, row by row, from coarse to fine.
    """
    corners = noise.new_zeros(len(noise), 1, 1, dtype=torch.float32)
    reach, taken = 100.0, 0
    while (cells := corners.shape[-1]) < side:
        count = cells * cells
        shifts = noise[:, taken : taken + 3 * count].to(torch.float32).mul(2 * reach**2).sub_(reach**2)
        to_centre, to_top, to_left = shifts.view(-1, 3, cells, cells).unbind(1)
        right = corners + corners.roll(-1, 2)
        down = corners + corners.roll(-1, 1)
        centre = (right + right.roll(-1, 1)).mul_(0.25).add_(to_centre)
        top = (right + centre).add_(centre.roll(1, 1)).mul_(0.25).add_(to_top)
        left = (down + centre).add_(centre.roll(1, 2)).mul_(0.25).add_(to_left)
        upper, lower = torch.stack([corners, top], -1), torch.stack([left, centre], -1)
        corners = torch.stack([upper, lower], 2).view(-1, 2 * cells, 2 * cells)
        reach, taken = reach / decay, taken + 3 * count
    corners -= corners.amin((1, 2), keepdim=True)
    return corners.div_(corners.amax((1, 2), keepdim=True))
