"""Impulse noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise


@register
class ImpulseNoise(Corruption):
    """Replaces each value with probability c, half of the time by 0 and half of the time by 255.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. As in the released code the channels of a pixel are drawn apart: the noise is coloured.

    One uniform draw decides both: below c / 2 it is pepper, from 1 - c / 2 on it is salt.

    ``table``: the probability c.
    """

    family: ClassVar = "noise"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (0.01, 0.02, 0.03, 0.05, 0.07),
        "64": (0.01, 0.02, 0.05, 0.08, 0.14),
        "224": (0.03, 0.06, 0.09, 0.17, 0.27),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {"uniform": randomness.uniform(keys, shape)}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        def noisy(level: Tensor, uniform: Tensor) -> Tensor:
            kept = level.mul(uniform >= constants / 2)
            return kept.bitwise_or_((uniform >= 1 - constants / 2).to(torch.uint8).mul_(255))

        return blockwise(noisy, x, draws["uniform"])
