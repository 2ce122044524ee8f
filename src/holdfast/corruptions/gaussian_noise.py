"""Gaussian noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise


@register
class GaussianNoise(Corruption):
    """Adds an independent normal draw of standard deviation c to every value.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3.

    ``table``: the standard deviation c, in units of [0, 1].
    """

    family: ClassVar = "noise"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (0.04, 0.06, 0.08, 0.09, 0.1),
        "64": (0.04, 0.08, 0.12, 0.15, 0.18),
        "224": (0.08, 0.12, 0.18, 0.26, 0.38),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {"normal": randomness.box_muller(keys, shape)}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        def noisy(level: Tensor, normal: Tensor) -> Tensor:
            return normal.mul(255 * constants).add_(level).clamp_(0, 255).to(torch.uint8)

        return blockwise(noisy, x, draws["normal"])
