"""Counting photons: Poisson noise on 8-bit levels, exact, from one uniform draw per value."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from holdfast.imaging.blockwise import blockwise


def counted(x: Tensor, photons: int, uniform: Tensor) -> Tensor:
    """Levels ``x``, uint8, each replaced by Poisson(level / 255 * photons) / photons; ``uniform`` has its shape.

    There are 256 levels and, after clipping, ``photons + 1`` results, so that a table holds all distributions; one
    uniform draw picks from it by the alias method (Walker, ACM Transactions on Mathematical Software 1977).
    """
    keep, outcomes = (part.to(x.device) for part in _alias(photons))

    def drawn(level: Tensor, uniform: Tensor) -> Tensor:
        place = uniform.flatten() * (photons + 1)
        column = place.to(torch.int32)
        entry = level.flatten().to(torch.int32).mul_(photons + 1).add_(column)
        moved = place.sub_(column) >= keep.index_select(0, entry)
        return outcomes.index_select(0, entry.mul_(2).add_(moved)).view(level.shape)

    return blockwise(drawn, x, uniform)


def shown(counts: Tensor, photons: int) -> Tensor:
    """The levels, uint8, that these counts are shown as, where ``photons`` stand for white."""
    return _levels(photons).to(counts.device)[counts.clamp(max=photons)]


def _levels(photons: int) -> Tensor:
    """(photons + 1,) uint8: what a count is shown as. In float64: the result is truncated."""
    return (torch.arange(photons + 1, dtype=torch.float64) / photons * 255).to(torch.uint8)


@lru_cache(maxsize=16)
def _alias(photons: int) -> tuple[Tensor, Tensor]:
    """The alias tables of min(Poisson(level / 255 * photons), photons) for the 256 levels, one after the other.

    Column k of a level is taken with probability 1 / (photons + 1). Below its share to keep, (256 * (photons + 1),), it
    gives k, else another count; both are stored as levels, (256 * (photons + 1) * 2,).
    """
    counts = torch.arange(photons + 1, dtype=torch.float64)
    rate = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    mass = torch.exp(torch.xlogy(counts, rate) - rate - torch.lgamma(counts + 1))
    mass[:, -1] = (1 - mass[:, :-1].sum(1)).clamp(min=0)
    mass = (mass * (photons + 1)).numpy()
    # In numpy: hundreds of small steps, which torch's threads would slow down.
    keep, other, level = np.ones_like(mass), np.tile(np.arange(photons + 1), (256, 1)), np.arange(256)
    for _ in range(photons):  # the poorest column is filled up by the richest, and is done
        poor, rich = mass.argmin(1), mass.argmax(1)
        share = mass[level, poor].clip(max=1)
        keep[level, poor], other[level, poor] = share, rich
        mass[level, rich] -= 1 - share
        mass[level, poor] = 1
    outcomes = torch.from_numpy(np.stack([np.broadcast_to(np.arange(photons + 1), other.shape), other], -1))
    return torch.from_numpy(keep).to(torch.float32).flatten(), _levels(photons)[outcomes].flatten()
