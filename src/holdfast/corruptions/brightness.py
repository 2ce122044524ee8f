"""Brightness."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws, to_uint8
from holdfast.foundation.registry import register
from holdfast.imaging.rowwise import rowwise

_TIE = 2.0**-20
"""Else a channel that is white in exact arithmetic would be rounded and truncated to 254."""


@register
class Brightness(Corruption):
    """Lifts the value of the HSV colour model: V becomes min(V + c, 1).

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. The conversion to HSV and back is not made: at equal hue and saturation all channels scale by
    V' / V, and black becomes grey of value c.

    ``table``: the constant c, in units of [0, 1].
    """

    family: ClassVar = "weather"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (0.05, 0.1, 0.15, 0.2, 0.3),
        "64": (0.1, 0.2, 0.3, 0.4, 0.5),
        "224": (0.1, 0.2, 0.3, 0.4, 0.5),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        def lifted(x: Tensor) -> Tensor:
            unit = x.to(torch.float32).div_(255)
            value = unit.amax(1, keepdim=True)
            raised = (value + constants).clamp_(max=1)
            return to_uint8(torch.where(value > 0, unit * (raised / value), raised).add_(_TIE))

        return rowwise(lifted, x)
