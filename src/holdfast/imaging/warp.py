"""Warps: reading an image at other places, bilinearly."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Border = Literal["mirror", "reflect"]
"""What lies outside: the image mirrored about its edge pixels (c b | a b c | b a) or their edges (b a | a b c | c b)."""


def sample(x: Tensor, rows: Tensor, columns: Tensor, *, border: Border) -> Tensor:
    """(N,C,H',W') float32: images (N,C,H,W), uint8 or float32, read at the places ``rows``, ``columns`` (N,H',W').

    Places are in pixels, float64; whole numbers are the pixels' centres. Where an image is flat it stays exactly so.
    """
    count, channels, height, width = x.shape
    top, bottom, down = _neighbours(rows, height, border)
    left, right, across = _neighbours(columns, width, border)
    start = torch.arange(count, device=x.device).mul_(channels * height * width).view(-1, 1, 1)
    top, bottom = top.mul_(width).add_(start), bottom.mul_(width).add_(start)
    places = [(row + column).flatten() for row in (top, bottom) for column in (left, right)]
    across, down, levels = across.flatten(), down.flatten(), x.to(torch.float32).flatten()
    out = levels.new_empty(channels, len(across))
    for channel, into in enumerate(out):
        plane = levels[channel * height * width :]
        a, b, c, d = (plane.index_select(0, place) for place in places)
        # a + (b - a) * share in separate kernels: a fused one may round otherwise from one place in memory to another.
        upper, lower = b.sub_(a).mul_(across).add_(a), d.sub_(c).mul_(across).add_(c)
        torch.add(lower.sub_(upper).mul_(down), upper, out=into)
    return out.view(channels, count, *rows.shape[1:]).transpose(0, 1)


def _neighbours(place: Tensor, side: int, border: Border) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each place, int64, and the share of the one after, float32."""
    low, period = (0.0, max(2.0 * (side - 1), 1.0)) if border == "mirror" else (-0.5, 2.0 * side)
    turned = place - low
    turned = turned.sub_((turned / period).floor_().mul_(period))  # from 0 to one period
    folded = (period / 2 + low) - turned.sub_(period / 2).abs_()
    before = folded.floor()
    share = (folded - before).to(torch.float32)
    before = before.to(torch.int64)
    return before.clamp(0, side - 1), before.add_(1).clamp_(0, side - 1), share
