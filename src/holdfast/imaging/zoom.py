"""Zoom into the centre, bilinear, with aligned ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """Images (...,H,W) of floats zoomed by ``factor`` >= 1 into the centre, cut to their own size.

    Source: the generator of ImageNet-C: along each axis the centred ``ceil(side / factor)`` pixels are resized to
    ``round(that * factor)`` with the end pixels on the ends, and what is too much is trimmed, the odd pixel at the end.
    """
    for axis in (-2, -1):
        first, share = axis_taps(x.shape[axis], factor)
        first, share = first.to(x.device), share.to(x.device, x.dtype)
        share = share[:, None] if axis == -2 else share
        low, high = x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=x.shape[axis] - 1))
        # Two kernels, not one fused multiply and add: whether that rounds once or twice depends on the place in memory.
        x = high.sub_(low).mul_(share).add_(low)
    return x


def axis_taps(side: int, factor: float) -> tuple[Tensor, Tensor]:
    """Where each of ``side`` outputs lies: its first input pixel, int64, and the share of the next one, float64."""
    crop = math.ceil(side / factor)
    size = round(crop * factor)
    trim = (size - side) // 2
    place = torch.arange(trim, trim + side, dtype=torch.float64) * ((crop - 1) / max(size - 1, 1))
    first = place.floor().clamp_(max=crop - 1)
    return first.to(torch.int64) + (side - crop) // 2, (place - first).clamp_(0, 1)


def sum_of_zooms(x: Tensor, factors: Sequence[float]) -> Tensor:
    """The sum of `clipped_zoom` of images (N,C,H,W) over ``factors``; float32, a few times as fast as one by one.

    All zooms of an axis are one sparse product: rows of the image, weighted and summed in bags. Weights are rounded to
    2**-16, so that what is flat, at a level of 8 bits, stays as it is to the last bit.
    """
    _, channels, height, width = x.shape
    rows, row_shares = (part.to(x.device) for part in _bags(height, tuple(factors)))
    columns, column_shares = (part.to(x.device) for part in _bags(width, tuple(factors)))
    # The second bags sum over the zooms, too: those of channel c and column j are rows (zoom, c, column) of the first.
    zoom = torch.arange(len(factors), device=x.device)[:, None]
    columns = (columns + zoom[..., None] * channels * width).transpose(0, 1).reshape(1, width, -1)
    columns = (columns + torch.arange(channels, device=x.device)[:, None, None] * width).reshape(channels * width, -1)
    column_shares = column_shares.transpose(0, 1).reshape(width, -1).repeat(channels, 1)
    out = torch.empty(x.shape, device=x.device)
    for image, total in zip(x, out, strict=True):  # an image fits a core's cache, a batch does not
        lines = image.transpose(0, 1).reshape(height, -1).to(torch.float32)
        zoomed = _bag_sums(rows.view(-1, 2), lines, row_shares.view(-1, 2)).view(len(factors), height, -1)
        zoomed = zoomed.mT.reshape(-1, height)
        total.copy_(_bag_sums(columns, zoomed, column_shares).view(channels, width, height).mT)
    return out


def _bag_sums(bags: Tensor, lines: Tensor, shares: Tensor) -> Tensor:
    return functional.embedding_bag(bags, lines, per_sample_weights=shares, mode="sum")


@lru_cache(maxsize=64)
def _bags(side: int, factors: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The two inputs of each output and their shares: (factors, side, 2) int64 and float32."""
    first, share = (torch.stack(parts) for parts in zip(*(axis_taps(side, factor) for factor in factors), strict=True))
    share = (share * 2**16).round() * 2.0**-16
    inputs = torch.stack([first, (first + 1).clamp(max=side - 1)], -1)
    return inputs, torch.stack([1 - share, share], -1).to(torch.float32)
