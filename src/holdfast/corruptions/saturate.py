"""Saturate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register


@register
class Saturate(Corruption):
    """Changes the saturation of the HSV colour model: S becomes clip(S * a + b, 0, 1).

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3 (one of the four extra corruptions). The conversion to HSV and back is not made: at equal hue
    and value V, a channel's distance below V scales by S' / S. As in the released code a grey pixel has hue 0, so that
    where b > 0 it becomes red. An image of one channel has no saturation and stays as it is.

    ``table``: the factor a, without unit, and the shift b, in units of [0, 1].
    """

    family: ClassVar = "digital"
    standing: ClassVar = "validation"
    colour_only: ClassVar = True
    table: ClassVar = {
        "32": ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
        "64": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2)),
        "224": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
        if x.shape[1] == 1:
            return x.clone()
        factor, shift = constants
        levels = x.to(torch.float32)
        value, least = levels.amax(1, keepdim=True), levels.amin(1, keepdim=True)
        inverse = value / (value - least)  # 1 / S, at which S' is 1
        ratio = torch.minimum(factor + shift * inverse, inverse)  # S' / S, for S > 0
        coloured = value - (value - levels) * ratio.nan_to_num(0, 0, 0)
        if not shift:
            return coloured.clamp(0, 255).to(torch.uint8)
        red = torch.cat([value, *[value * (1 - shift)] * 2], 1)
        return torch.where(value > least, coloured, red).clamp(0, 255).to(torch.uint8)
