"""Gaussian noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class GaussianNoise(Perturbation):
    """Adds an independent normal draw to every value of every frame but the first.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code.

    ``table``: frames; standard deviation in units of [0, 1].
    """

    standing: ClassVar = "test"
    noise: ClassVar = True
    table: ClassVar = {
        "32": ((31, 0.02), (31, 0.04), (31, 0.06)),
        "64": ((31, 0.025), (31, 0.05), (31, 0.075)),
        "224": ((31, 0.03), (31, 0.05), (31, 0.08)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {"normal": randomness.box_muller(keys, (constants[0] - 1, *shape))}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        def noisy(level: Tensor, normal: Tensor) -> Tensor:
            return normal.mul(255 * constants[1]).add_(level).clamp_(0, 255).to(torch.uint8)

        clean = x[:, None]
        return torch.cat([clean, blockwise(noisy, clean.expand_as(draws["normal"]), draws["normal"])], 1)
