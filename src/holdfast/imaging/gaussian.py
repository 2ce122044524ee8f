"""Gaussian blur, exact: the bits do not depend on the batch, the device, or the order in which sums are taken."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Border = Literal["nearest", "reflect"]
"""What lies outside: the edge's value, or the image mirrored about its edge (d c b a | a b c d | d c b a)."""

_BITS = 26  # of a weight and of a value; a sum of their products has 52 at most, and float64 holds 53
_BLOCK = 16  # outputs of one product: between them lies the matrix's band
_CACHED = 1 << 17  # values, per thread


def gaussian(x: Tensor, sigma: float, *, bound: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """``x`` (...,H,W) blurred along its last two axes with a sampled Gaussian of ``sigma`` pixels.

    uint8 gives uint8, rounded down; floats give float64. Both axes are matrix products. Weights are multiples of 2**-26
    (they sum to 1: what is flat stays as it is), values of ``bound`` * 2**-26; so no sum is ever rounded, and a row of a
    batch has the same bits alone.

    Args:
        bound: the largest magnitude in ``x``, a power of 2: 256 for levels, 1 for units.
        truncate: the kernel ends at ``int(truncate * sigma + 0.5)`` pixels.
    """
    step = bound * 2.0**-_BITS
    radius = int(truncate * sigma + 0.5)
    height, width = x.shape[-2:]
    down, across = (_matrix(side, sigma, radius, border).to(x.device) for side in (height, width))
    planes = x.reshape(-1, height, width)
    dtype = torch.uint8 if x.dtype == torch.uint8 else torch.float64
    out = torch.empty(planes.shape, dtype=dtype, device=x.device)
    at_once = len(planes) if x.device.type != "cpu" else max(1, _CACHED * torch.get_num_threads() // (height * width))
    for part, into in zip(planes.split(at_once), out.split(at_once), strict=True):
        values = (part.to(torch.float64) * (1 / step)).round_()
        if radius:
            values = _along_columns(values, down, radius).round_()
            values = _along_rows(values, across, radius)
        into.copy_(values.mul_(step))
    return out.view(x.shape)


@lru_cache(maxsize=64)
def _matrix(side: int, sigma: float, radius: int, border: Border) -> Tensor:
    """(side, side): row i holds the weights of output i, what falls outside folded back in."""
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.to(torch.float64) / sigma) ** 2)
    weights = (weights / weights.sum() * 2**_BITS).round()
    weights[radius] += 2**_BITS - weights.sum()
    source = torch.arange(side)[:, None] + offsets
    if border == "reflect":
        source = source % (2 * side)
        source = torch.minimum(source, 2 * side - 1 - source)
    else:
        source = source.clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, source, weights.expand(side, -1)) * 2.0**-_BITS


def _blocks(side: int, radius: int) -> list[tuple[slice, slice]]:
    """Runs of outputs, and the inputs that they need: the matrix is zero elsewhere."""
    size = _BLOCK if 2 * radius + 4 * _BLOCK < side else side
    return [
        (slice(start, min(start + size, side)), slice(max(start - radius, 0), min(start + size + radius, side)))
        for start in range(0, side, size)
    ]


def _along_columns(x: Tensor, matrix: Tensor, radius: int) -> Tensor:
    parts = [matrix[into, of] @ x[:, of] for into, of in _blocks(x.shape[1], radius)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _along_rows(x: Tensor, matrix: Tensor, radius: int) -> Tensor:
    lines = x.view(-1, x.shape[2])
    out = torch.empty_like(lines)
    for into, of in _blocks(x.shape[2], radius):
        torch.mm(lines[:, of], matrix[into, of].T, out=out[:, into])
    return out.view(x.shape)
