"""What takes the finest detail from images: fewer grey levels, and a median filter."""

from __future__ import annotations

import torch
from torch import Tensor


def coarse(x: Tensor, bits: int) -> Tensor:
    """Values in [0, 1] at the nearest of ``2 ** bits`` levels, halves to even ones."""
    top = 2**bits - 1
    return (x * top).round() / top


def median(x: Tensor, size: int) -> Tensor:
    """Images (..., H, W) whose values are medians of windows of ``size`` by ``size``.

    As in SciPy's median_filter, an even window reaches further up and left and takes the upper of the two middle values,
    and the image is mirrored about its edges.
    """
    rows, columns = (_mirrored(side, size, x.device) for side in x.shape[-2:])
    windows = x[..., rows[:, None], columns].unfold(-2, size, 1).unfold(-2, size, 1)
    return windows.flatten(-2).kthvalue(size * size // 2 + 1).values


def _mirrored(side: int, size: int, device: torch.device) -> Tensor:
    """The pixels that the windows along an axis of ``side`` pixels lie over, mirrored about its edges."""
    place = torch.arange(-(size // 2), side + (size - 1) // 2, device=device) % (2 * side)
    return torch.minimum(place, 2 * side - 1 - place)
