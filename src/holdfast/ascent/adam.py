"""Adam's step rule, row by row: every row counts its own steps."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.threats.threat import rows as per_row

DECAYS = 0.9, 0.999
FLOOR = 1e-8


class Adam(NamedTuple):
    """``step``, of length about 1 in every value, and the moments after it; all (R, ...)."""

    step: Tensor
    first: Tensor
    second: Tensor


def adam(first: Tensor, second: Tensor, grad: Tensor, tick: Tensor, most: int) -> Adam:
    """One step along ``grad``; ``tick`` (R,) int64 steps, fewer than ``most``, were made since the moments were
    zero.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization" (ICLR 2015), algorithm 1, with its defaults.
    """
    a, b = DECAYS
    first = a * first + (1 - a) * grad
    second = b * second + (1 - b) * grad * grad
    # Powers from a table: the bits of torch's pow depend on a number's place in the tensor.
    powers = torch.tensor(_powers(most + 1), dtype=grad.dtype, device=grad.device)
    mean, spread = (per_row(1 - powers[i][tick + 1], grad) for i in (0, 1))
    return Adam((first / mean) / ((second / spread).sqrt() + FLOOR), first, second)


@functools.cache
def _powers(count: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(decay**k for k in range(count)) for decay in DECAYS)
