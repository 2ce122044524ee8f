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
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_A = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_B = -7723592293110705685  # 0x94D049BB133111EB
_CACHED = 1 << 16  # positions, per thread: as many as a core's cache holds while they are mixed
_AT_ONCE = 1 << 24  # positions, elsewhere: enough to keep a device busy


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own shift of int64 carries the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MIX_A)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MIX_B)
    return _shift(x, 31).bitwise_xor_(x)


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


def _blocks(key: Tensor, size: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, positions and the mixed int64 of every one of ``size`` positions for every key, a cacheful at a time."""
    on_cpu = key.device.type == "cpu"
    block = _CACHED * torch.get_num_threads() if on_cpu else _AT_ONCE
    wide = max(1, min(size, block))
    tall = max(1, block // wide)
    mixed = _mix(key)[:, None]
    for left in range(0, size, wide):
        places = slice(left, min(left + wide, size))
        counter = torch.arange(places.start + 1, places.stop + 1, dtype=torch.int64, device=key.device) * _GOLDEN
        for top in range(0, len(key), tall):
            rows = slice(top, top + tall)
            yield rows, places, _mix(mixed[rows] + counter)


def _drawn(key: Tensor, shape: Sequence[int], dtype: torch.dtype, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """``draw`` of the mixed int64 of each position, (R, *shape)."""
    size = math.prod(shape)
    out = torch.empty(len(key), size, dtype=dtype, device=key.device)
    for rows, places, mixed in _blocks(key, size):
        out[rows, places] = draw(mixed)
    return out.view(len(key), *shape)


def uniform(key: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draws from [0, 1): one tensor of ``shape`` per key, (R, *shape), multiples of 2**-24."""
    return _drawn(key, shape, dtype, lambda mixed: _shift(mixed, 40).to(torch.float32).mul_(2.0**-24))


def normal(key: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws, (R, *shape), by inverting the distribution function in float64."""

    def draw(mixed: Tensor) -> Tensor:
        return torch.special.ndtri((_shift(mixed, 32).to(torch.float64) + 0.5) * 2.0**-32)

    return _drawn(key, shape, dtype, draw)


def box_muller(key: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal draws, (R, *shape) float32, other than those of `normal` and several times as fast.

    Source: Box and Muller, Annals of Mathematical Statistics 1958. The halves of one mixed integer give a radius and an
    angle, and so a pair: the draws at positions i and i + half the size. The largest magnitude is 6.8. Devices agree
    up to the rounding of their logarithm, sine and cosine.
    """
    size = math.prod(shape)
    half = (size + 1) // 2
    out = torch.empty(len(key), size, dtype=torch.float32, device=key.device)
    for rows, places, mixed in _blocks(key, half):
        share = (mixed >> 32).to(torch.float32).abs_().mul_(2.0**-31).add_(2.0**-33)  # never zero
        radius = share.log_().mul_(-2).sqrt_()
        angle = mixed.to(torch.int32).to(torch.float32).mul_(math.pi * 2.0**-31)
        second = slice(half + places.start, half + places.stop)
        out[rows, places] = angle.cos() * radius
        out[rows, second] = (angle.sin_() * radius)[:, : size - second.start]
    return out.view(len(key), *shape)


def integers(key: Tensor, shape: Sequence[int], high: int) -> Tensor:
    """Integers from 0 to ``high - 1``, (R, *shape) int64. The bias is below ``high / 2**63``."""
    return _drawn(key, shape, torch.int64, lambda mixed: _shift(mixed, 1) % high)
