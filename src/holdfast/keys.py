"""Randomness as a pure function: counter-based draws on integer tensors.

A key is an int64 per row. Every draw is a function of the key, the position in the drawn shape and nothing else, so that
no draw depends on the batch's size, its order, the process's rank, or on what was drawn before. Keys are made by folding
(run seed, sample id, stage, search, step) into one another with `fold`.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 15); int64 tensors wrap
around on overflow as it needs. A uniform draw has 24 bits, which float32 holds exactly: all dtypes and devices see the
same draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_A = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_B = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own shift of int64 carries the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def number(text: str) -> int:
    """A stable integer for a name (a stage's, say): the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def root(seed: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The key, of shape (), that a run's seed stands for; seeds that differ by a multiple of 2**64 share it."""
    signed = (seed + 2**63) % 2**64 - 2**63
    return _mix(torch.tensor(signed, dtype=torch.int64, device=device) + _GOLDEN)


def fold(key: Tensor, data: Tensor | int) -> Tensor:
    """New keys from ``key`` and ``data`` (integers), broadcast against each other."""
    if not isinstance(data, Tensor):
        data = torch.tensor(data, dtype=torch.int64, device=key.device)
    # The key is mixed once more than the data: else (seed 1, sample 0) and (seed 0, sample 1) would draw the same.
    return _mix(_mix(key) + _mix(data.to(torch.int64) + _GOLDEN))


def _bits(key: Tensor, shape: Sequence[int]) -> Tensor:
    """(R, prod(shape)) mixed int64, for R keys."""
    counter = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=key.device) * _GOLDEN
    return _mix(_mix(key)[:, None] + counter)


def uniform(key: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draws from [0, 1): one tensor of ``shape`` per key, (R, *shape), multiples of 2**-24."""
    draws = _shift(_bits(key, shape), 40).to(torch.float32) * 2.0**-24
    return draws.to(dtype).view(len(key), *shape)


def normal(key: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws, (R, *shape), by inverting the distribution function in float64."""
    share = (_shift(_bits(key, shape), 32).to(torch.float64) + 0.5) * 2.0**-32
    return torch.special.ndtri(share).to(dtype).view(len(key), *shape)


def integers(key: Tensor, shape: Sequence[int], high: int) -> Tensor:
    """Integers from 0 to ``high - 1``, (R, *shape) int64. The bias is below ``high / 2**63``."""
    return (_shift(_bits(key, shape), 1) % high).view(len(key), *shape)
