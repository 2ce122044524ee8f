"""Speckle noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise


@register
class SpeckleNoise(Corruption):
    """Adds to every value its own multiple by an independent normal draw of standard deviation c: the brighter, the more.

    Source: the released code of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", ICLR 2019: one of the four corruptions for tuning.

    ``table``: the standard deviation c, as a share of the value.
    """

    family: ClassVar = "noise"
    standing: ClassVar = "validation"
    table: ClassVar = {
        "32": (0.06, 0.1, 0.12, 0.16, 0.2),
        "64": (0.15, 0.2, 0.25, 0.3, 0.35),
        "224": (0.15, 0.2, 0.35, 0.45, 0.6),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {"normal": randomness.box_muller(keys, shape)}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        def noisy(level: Tensor, normal: Tensor) -> Tensor:
            return normal.mul(constants).add_(1).mul_(level).clamp_(0, 255).to(torch.uint8)

        return blockwise(noisy, x, draws["normal"])
