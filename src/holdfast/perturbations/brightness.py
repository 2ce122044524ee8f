"""Brightness."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.perturbations.perturbation import Draws, Perturbation

_LIFT = 2.0**-12
"""Added to levels before they are truncated: more than the rounding of float32 takes away from a whole number."""


@register
class Brightness(Perturbation):
    """Goes from dark through the image itself to bright: the value V of the HSV model becomes clip(V + c, 0, 1).

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code. The conversion to HSV and back is not made: at equal hue and saturation all
    channels scale by V' / V, and black becomes grey.

    ``table``: frames; the change of c from frame to frame, in units of [0, 1].
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((31, 0.015),), "64": ((31, 0.02),), "224": ((31, 0.02),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        count, step = constants
        levels = x.to(torch.float32)
        value = levels.amax(1, keepdim=True)
        frames = []
        for index in range(count):
            lifted = (value + 255 * step * (index - count // 2)).clamp_(0, 255)
            frames.append(torch.where(value > 0, levels * (lifted / value), lifted).add_(_LIFT).to(torch.uint8))
        return torch.stack(frames, 1)
