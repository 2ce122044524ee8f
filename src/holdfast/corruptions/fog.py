"""Fog."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws, to_uint8
from holdfast.foundation.registry import register
from holdfast.imaging.plasma import plasma, side_for


@register
class Fog(Corruption):
    """Adds grey clouds and darkens the whole, so that the lightest value m of the image would stay: x becomes
    (x + c * clouds) * m / (m + c).

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. As in the released code the clouds have the side of the next power of two, of which the upper
    left corner is taken, and lie within [0, 1] before the cut.

    ``table``: the amount c, in units of [0, 1], and the decay of the clouds' roughness from scale to scale.
    """

    family: ClassVar = "weather"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        "64": ((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
        "224": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
        return {"clouds": randomness.uniform(keys, (side_for(*shape[1:]) ** 2 - 1,))}

    def apply(self, x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
        amount, decay = constants
        height, width = x.shape[-2:]
        clouds = plasma(draws["clouds"], side_for(height, width), decay)[:, None, :height, :width]
        unit = x.to(torch.float32).div_(255)
        lightest = unit.amax((1, 2, 3), keepdim=True)
        return to_uint8(unit.add_(clouds * amount).mul_(lightest / (lightest + amount)))
