"""Inverse sparkles."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.rowwise import rowwise

_MOST = 120
"""Rays; an image has half of them at least."""


@register
class InverseSparkles(Corruption):
    """Glare from all sides: the image shows through a ragged star, and fades to white beyond its rays.

    Source: ours, after Mintun, Kirillov and Xie, "On interaction between augmentations and corruptions in natural
    corruption robustness", NeurIPS 2021 (ImageNet-C-bar). The star's middle, in the inner half of the image, the number
    of its rays and their lengths are drawn. Departure: within the star nothing changes.

    ``table``: how fast the image fades: beyond a ray of length r, at the distance d, (r / d)**c of it is left.
    """

    family: ClassVar = "weather"
    standing: ClassVar = "held_out"
    table: ClassVar = {
        "32": (0.15, 0.21, 0.28, 0.35, 0.42),
        "64": (0.19, 0.25, 0.32, 0.38, 0.46),
        "224": (0.27, 0.36, 0.44, 0.53, 0.63),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {
            "middle": randomness.uniform(randomness.fold(keys, 0), (2,)),
            "count": _MOST // 2 + randomness.integers(randomness.fold(keys, 1), (), _MOST // 2 + 1),
            "length": randomness.uniform(randomness.fold(keys, 2), (_MOST,)),
        }

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(height, dtype=torch.float32, device=x.device)[:, None]
        columns = torch.arange(width, dtype=torch.float32, device=x.device)

        def glaring(x: Tensor, middle: Tensor, count: Tensor, length: Tensor) -> Tensor:
            y, x0 = middle.mul(0.5).add_(0.25)[:, :, None, None].unbind(1)
            down, right = (rows - y * height).expand(-1, -1, width), (columns - x0 * width).expand(-1, height, -1)
            number = count[:, None, None]
            ray = (torch.atan2(down, right) / (2 * math.pi) + 0.5) * number
            before = ray.floor().to(torch.int64) % number
            image = torch.arange(len(x), device=x.device)[:, None, None]
            near, far = length[image, before], length[image, (before + 1) % number]
            # From the tip of one ray to that of the next in a straight line.
            reach = ((far - near) * (ray - ray.floor()) + near).mul_(0.3).add_(0.1).mul_(min(height, width))
            kept = (reach / (down.square() + right.square()).sqrt_().clamp_(min=1)).clamp_(max=1).pow_(constants)
            return (255 - (255 - x.to(torch.float32)) * kept[:, None]).clamp_(0, 255).to(torch.uint8)

        return rowwise(glaring, x, draws["middle"], draws["count"], draws["length"])
