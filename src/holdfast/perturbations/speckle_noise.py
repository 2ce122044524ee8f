"""Speckle noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class SpeckleNoise(Perturbation):
    """Adds to every value of every frame but the first its own multiple by an independent normal draw.

    Source: the released code of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", ICLR 2019: one of the perturbations for tuning.

    ``table``: frames; standard deviation as a share of the value.
    """

    standing: ClassVar = "extra"
    noise: ClassVar = True
    table: ClassVar = {
        "32": ((31, 0.05), (31, 0.07), (31, 0.1)),
        "64": ((31, 0.05), (31, 0.1), (31, 0.15)),
        "224": ((31, 0.05), (31, 0.1), (31, 0.15)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {"normal": randomness.box_muller(keys, (constants[0] - 1, *shape))}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        def noisy(level: Tensor, normal: Tensor) -> Tensor:
            return normal.mul(constants[1]).add_(1).mul_(level).clamp_(0, 255).to(torch.uint8)

        clean = x[:, None]
        return torch.cat([clean, blockwise(noisy, clean.expand_as(draws["normal"]), draws["normal"])], 1)
