"""Resizing 8-bit images, to the bit as Pillow and OpenCV do it, in whole numbers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_BITS = 22  # of a weight in Pillow's 8-bit resampling


def box(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (...,H,W) uint8 resized to ``size``: each pixel is the mean of the pixels whose centres it covers.

    Source: Pillow's BOX filter, fixed point included: columns first, rounded to 8 bits, then rows (Pillow 13 takes the
    rows first where the height loses more than twice what the width loses; all before it never do). Where a side grows
    a pixel covers a single centre.
    """
    if x.shape[-1] != size[1]:
        # Whole rows are picked and added ten times as fast as columns: turning the image twice is cheaper.
        x = _box_rows(x.mT.contiguous(), size[1]).mT.contiguous()
    return x if x.shape[-2] == size[0] else _box_rows(x, size[0])


def _box_rows(x: Tensor, size: int) -> Tensor:
    first, count, weight = (part.to(x.device) for part in _windows(x.shape[-2], size))
    total = x.index_select(-2, first)
    most = int(count.max())
    if most == 1:
        return total
    total = total.to(torch.int32)
    for step in range(1, most):
        inside = (step < count).to(torch.uint8)
        total += x.index_select(-2, first + step * inside) * inside[:, None]
    return total.mul_(weight[:, None]).add_(1 << (_BITS - 1)).bitwise_right_shift_(_BITS).to(torch.uint8)


@lru_cache(maxsize=64)
def _windows(side: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``size`` outputs: its first input, how many there are, and the weight of each in 2**-22."""
    scale = side / size
    reach = 0.5 * max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first = (centre - reach + 0.5).to(torch.int64).clamp(min=0)
    last = (centre + reach + 0.5).to(torch.int64).clamp(max=side)
    # An input counts where its centre is covered; a window may hold one more at either end that is not.
    place = first[:, None] + torch.arange(int((last - first).max()))
    off = (place - centre[:, None] + 0.5) * (1 / max(scale, 1.0))
    covered = (off > -0.5) & (off <= 0.5) & (place < last[:, None])
    count = covered.sum(1)
    first = place.gather(1, covered.to(torch.int64).argmax(1, keepdim=True))[:, 0]
    return first, count, (2**_BITS / count.to(torch.float64) + 0.5).to(torch.int32)


def bilinear(x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Images (...,H,W) uint8 resized to ``size``, about ``scale`` times theirs, between the two nearest pixels.

    Source: OpenCV's INTER_LINEAR on 8 bits, fixed point included. Nothing is smoothed before an image is shrunk.
    """
    (top, bottom, up, down), (left, right, near, far) = (
        tuple(part.to(x.device) for part in _taps(x.shape[axis], size[axis], scale)) for axis in (-2, -1)
    )
    wide = x.to(torch.int32)
    wide = (wide.index_select(-1, left) * near + wide.index_select(-1, right) * far) >> 4
    upper = (wide.index_select(-2, top) * up[:, None]) >> 16
    lower = (wide.index_select(-2, bottom) * down[:, None]) >> 16
    return ((upper + lower + 2) >> 2).to(torch.uint8)


def _taps(side: int, size: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of ``size`` outputs: the input pixels before and after it, and their weights in 2**-11."""
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5).to(torch.float32).clamp(0, side - 1)
    before = place.floor()
    share = place - before
    far, near = ((part * 2**11).round().to(torch.int32) for part in (share, 1 - share))
    before = before.to(torch.int64)
    return before, (before + 1).clamp(max=side - 1), near, far
