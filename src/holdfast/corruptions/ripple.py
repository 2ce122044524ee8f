"""Ripple."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.rowwise import rowwise
from holdfast.imaging.warp import sample


@register
class Ripple(Corruption):
    """Bends the image in two standing waves, as water does: columns swing up and down, rows to left and right.

    Source: ours, after Mintun, Kirillov and Xie, "On interaction between augmentations and corruptions in natural
    corruption robustness", NeurIPS 2021 (CIFAR-10-C-bar). Departure: theirs stretches each axis along itself, ours
    shifts it along the other. The waves' lengths, 0.15 to 0.4 of the image's shorter side, and phases are drawn.

    ``table``: the waves' amplitude, as a share of the image's shorter side.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "held_out"
    table: ClassVar = {
        "32": (0.02, 0.027, 0.035, 0.045, 0.06),
        "64": (0.02, 0.027, 0.035, 0.045, 0.06),
        "224": (0.02, 0.027, 0.035, 0.045, 0.06),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {
            "length": randomness.uniform(randomness.fold(keys, 0), (2,)),
            "phase": randomness.uniform(randomness.fold(keys, 1), (2,)),
        }

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        height, width = x.shape[2:]
        shorter = min(height, width)
        rows = torch.arange(height, dtype=torch.float64, device=x.device)
        columns = torch.arange(width, dtype=torch.float64, device=x.device)

        def bent(x: Tensor, length: Tensor, phase: Tensor) -> Tensor:
            wave = 2 * math.pi / ((0.15 + 0.25 * length.to(torch.float64)) * shorter)
            start = 2 * math.pi * phase.to(torch.float64)
            down = (wave[:, :1] * columns + start[:, :1]).sin_().mul_(constants * shorter)[:, None]
            right = (wave[:, 1:] * rows + start[:, 1:]).sin_().mul_(constants * shorter)[:, :, None]
            return sample(x, rows[:, None] + down, columns + right, border="mirror").to(torch.uint8)

        return rowwise(bent, x, draws["length"], draws["phase"])
