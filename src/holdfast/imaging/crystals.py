"""Crystals of ice on a pane: stars of six feathers that grew towards each other, on uneven ice."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holdfast.imaging.plasma import plasma, side_for

_NEEDLES = 7.0  # of a feather, per spacing of the crystals


def places_for(height: int, width: int, spacing: float) -> tuple[int, int]:
    """Rows and columns of the crystals of an image, with two more on every side."""
    return math.ceil(height / spacing) + 4, math.ceil(width / spacing) + 4


def crystals(seeds: Tensor, noise: Tensor, size: tuple[int, int], spacing: float) -> Tensor:
    """Relief (N,H,W) float32 of crystals ``spacing`` pixels apart, about 0 to 1.

    Made of two textures: the distance to the nearest of scattered points (Worley, SIGGRAPH 1996), its six directions
    folded into one and combed into needles; and plasma, which bends the needles and makes the ice uneven.

    Args:
        seeds: uniform draws (N, *places, 4) in [0, 1), see `places_for`: where in its square a crystal lies, its turn
            and its light.
        noise: uniform draws for the plasma, see `plasma`.
    """
    height, width = size
    count, high, wide, _ = seeds.shape
    ice = plasma(noise, side_for(height, width), 1.7)[:, :height, :width]
    bent = (ice - 0.5) * 0.7
    y = torch.arange(height, dtype=torch.float32, device=seeds.device)[:, None] / spacing + bent + 2
    x = torch.arange(width, dtype=torch.float32, device=seeds.device) / spacing - bent + 2
    start = torch.arange(0, count * high, high, device=seeds.device)[:, None, None]
    square = (y.to(torch.int64).add_(start) * wide + x.to(torch.int64)).flatten()
    ice, y, x = ice.flatten(), y.flatten(), x.flatten()

    points = seeds.flatten(0, 2).to(torch.float32)
    index = torch.arange(count * high * wide, device=seeds.device)
    middle_y = 0.1 + 0.8 * points[:, 0] + index // wide % high
    middle_x = 0.1 + 0.8 * points[:, 1] + index % wide
    nearest, best = torch.full_like(y, math.inf), square
    for step in [down * wide + right for down in (-1, 0, 1) for right in (-1, 0, 1)]:
        at = square + step
        far = (y - middle_y.index_select(0, at)).square_().add_((x - middle_x.index_select(0, at)).square_())
        best = torch.where(far < nearest, at, best)
        nearest = torch.minimum(nearest, far)
    dy, dx = y - middle_y.index_select(0, best), x - middle_x.index_select(0, best)
    turn = points[:, 2] * (math.pi / 3)
    cos, sin = turn.cos().index_select(0, best), turn.sin().index_select(0, best)
    feather = _feather(dx * cos + dy * sin, dy * cos - dx * sin)
    light = points[:, 3].contiguous().index_select(0, best)
    # Ice grows from the middles of the crystals, and more where it is thick.
    relief = 0.5 * feather * (0.3 + ice) * (1.2 - nearest).clamp_(min=0.3) + 0.35 * ice + 0.15 * light
    return relief.view(count, height, width)


def _feather(along: Tensor, across: Tensor) -> Tensor:
    """Brightness of a star of six feathers at a place from its middle: quills, and needles at 60 degrees to them."""
    # Six mirrors fold the plane into the half of one feather: no angle is ever computed.
    along, across = along.abs(), across.abs()
    over = (0.5 * along - (math.sqrt(3) / 2) * across).clamp_(max=0)
    along, across = along - over, (across + math.sqrt(3) * over).abs_()
    needle = (along - across / math.sqrt(3)) * _NEEDLES
    ridge = (needle - needle.floor() - 0.5).abs_().mul_(2)
    quill = (1 - across * (2 * _NEEDLES)).clamp_(min=0)
    return torch.maximum(ridge * ridge, quill)
