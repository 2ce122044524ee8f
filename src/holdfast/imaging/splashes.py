"""Splashes on a lens: where a layer of liquid holds water, or mud, and what is seen through them."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.imaging.colour import luma
from holdfast.imaging.edges import canny, distance
from holdfast.imaging.frame import framed, sum_of_nine
from holdfast.imaging.gaussian import gaussian

_WATER = (175.0, 238.0, 238.0)
_MUD = (63.0, 42.0, 20.0)
_RIM = 20
"""Pixels from the edge of a drop beyond which it is lit the same."""


def water(liquid: Tensor) -> Tensor:
    """(N,H,W) float32 from 0 to 1: how brightly the drops of ``liquid`` (N,H,W) uint8 shine. Zero where there is none.

    Source: the generator of ImageNet-C, whose steps with OpenCV on 8 bits are reproduced: the distance to the drops'
    edges, smoothed, equalised, lit from one corner and smoothed again, times the liquid. Departure: where a layer has
    no liquid at all, the generator divides by zero and its image is black.
    """
    rim = sum_of_nine(framed(distance(canny(liquid, 50, 150), _RIM).to(torch.float64), mirror=True))
    levels = _equalised(rim.mul_(1 / 9).to(torch.float32).to(torch.int64), _RIM + 1)
    light = framed(levels, mirror=True)
    lit = (2 * light[:, 2:, 2:] + light[:, 2:, 1:-1] + light[:, 1:-1, 2:] + light[:, 1:-1, 1:-1]).sub_(
        2 * light[:, :-2, :-2] + light[:, :-2, 1:-1] + light[:, 1:-1, :-2]
    )
    shine = sum_of_nine(framed(lit.clamp_(0, 255), mirror=True)).to(torch.float32).mul_(1 / 9).round_().mul_(liquid)
    return shine / shine.amax((1, 2), keepdim=True).clamp_(min=1)


def mud(liquid: Tensor, softness: float) -> Tensor:
    """(N,H,W) float32, 0 or from 0.8 to 1: how densely mud lies where ``liquid`` (N,H,W) bool is, edges smoothed."""
    density = gaussian(liquid.to(torch.float32), softness, bound=1).to(torch.float32)
    return density.masked_fill_(density < 0.8, 0)


def wet(x: Tensor, water: Tensor) -> Tensor:
    """Images (N,C,H,W) uint8 with pale turquoise light added, as ``water`` (N,H,W) says."""
    levels = water[:, None] * _colour(_WATER, x)
    return levels.add_(x).clamp_(0, 255).to(torch.uint8)


def soiled(x: Tensor, mud: Tensor) -> Tensor:
    """Images (N,C,H,W) uint8 under brown mud, as ``mud`` (N,H,W) says."""
    return (x * (1 - mud[:, None]) + mud[:, None] * _colour(_MUD, x)).clamp_(0, 255).to(torch.uint8)


def _colour(levels: tuple[float, float, float], x: Tensor) -> Tensor:
    colour = torch.tensor(levels, device=x.device)[None, :, None, None]
    return luma(colour) if x.shape[1] == 1 else colour


def _equalised(x: Tensor, levels: int) -> Tensor:
    """(N,H,W) int32 from 0 to 255: images (N,H,W) int64 below ``levels``, each level as often as the others."""
    count, pixels = len(x), x.shape[1] * x.shape[2]
    place = x.view(count, pixels)
    often = torch.zeros(count, levels, dtype=torch.int64, device=x.device)
    often.scatter_add_(1, place, torch.ones_like(place))
    # The first level that occurs goes to 0. An image of a single level stays as it is.
    first = often.gather(1, (often > 0).to(torch.int64).argmax(1, keepdim=True))
    scale = 255 / (pixels - first).to(torch.float32)
    table = ((often.cumsum(1) - first).to(torch.float32) * scale).round_().clamp_(0, 255).to(torch.int32)
    table = torch.where(first == pixels, torch.arange(levels, dtype=torch.int32, device=x.device), table)
    return table.gather(1, place).view_as(x)
