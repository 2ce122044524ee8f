"""Motion blur along a line, one direction per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_BITS = {torch.float32: 16, torch.float64: 44}
"""Of a weight: with 8-bit levels a sum of products has 24 or 52 at most, which is what the type holds."""


def motion(x: Tensor, radius: int, sigma: float, angle: Tensor, *, fine: bool = False) -> Tensor:
    """Images (N,C,H,W) smeared with a one-sided Gaussian from each pixel on, towards ``angle`` (N,) in degrees.

    Source: ImageMagick 6, MotionBlurImage. There are ``2 * radius + 1`` taps; tap i has the weight
    ``exp(-i**2 / (2 * sigma**2))`` (they sum to 1) and lies ``ceil(i * cos - 0.5)`` columns to the right and
    ``ceil(i * sin - 0.5)`` rows down; beyond the edge its value goes on. uint8 gives uint8, rounded down as there;
    floats give floats. Weights are rounded to 2**-16, so that sums over levels are exact; to 2**-44 where ``fine``, which
    takes longer: where two results are added, a level more or less in each is too much.
    """
    kind = torch.float64 if fine else torch.float32
    weights = _weights(radius, sigma, _BITS[kind])
    reach, taps = len(weights) - 1, 2 * radius + 1
    height, width = x.shape[2:]
    padded = functional.pad(x if x.is_floating_point() else x.to(kind), (reach,) * 4, mode="replicate")
    total = torch.zeros_like(x, dtype=padded.dtype)
    # Image by image a tap is a view. Gathering the taps of a whole batch is four times slower.
    for image, out, degrees in zip(padded, total, angle.tolist(), strict=True):
        # Which way half a pixel goes hangs on the last bit: ImageMagick's operations, in its order.
        right, down = (taps * along(math.pi * degrees / 180) for along in (math.cos, math.sin))
        length = math.hypot(right, down)
        for tap, weight in enumerate(weights):
            row, column = reach + math.ceil(tap * down / length - 0.5), reach + math.ceil(tap * right / length - 0.5)
            out.add_(image[:, row : row + height, column : column + width], alpha=weight)
    return total if x.is_floating_point() else total.add_(0.5 / 257).to(x.dtype)


def _weights(radius: int, sigma: float, bits: int) -> list[float]:
    """The weights of the taps, without the last ones where they round to nothing."""
    weights = torch.exp(-0.5 * (torch.arange(2 * radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights = (weights / weights.sum() * 2**bits).round()
    weights[0] += 2**bits - weights.sum()
    return (weights[weights > 0] * 2.0**-bits).tolist()
