"""Spatter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian
from holdfast.imaging.rowwise import rowwise
from holdfast.imaging.splashes import mud, soiled, water, wet


@register
class Spatter(Corruption):
    """Drops of water (severities 1 to 3) or of mud (4 and 5) on the lens.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3 (one of the four extra corruptions). The liquid is smoothed normal noise above a threshold;
    the released code's steps with OpenCV are reproduced, see `holdfast.imaging.splashes`, but for its black images
    where there happens to be no liquid: these stay as they are. The change is not monotone in severity.

    ``table``: mean and deviation of the noise, in units of [0, 1]; its smoothing, in pixels; the threshold, in units of
    [0, 1]; for water the strength of the light, without unit, for mud the smoothing of its edges, in pixels; whether it
    is mud.
    """

    family: ClassVar = "weather"
    standing: ClassVar = "validation"
    table: ClassVar = {
        "32": (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1.0, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        "64": (
            (0.62, 0.1, 0.7, 0.7, 0.6, False),
            (0.65, 0.1, 0.8, 0.7, 0.6, False),
            (0.65, 0.3, 1.0, 0.69, 0.6, False),
            (0.65, 0.1, 0.7, 0.68, 0.6, True),
            (0.65, 0.1, 0.5, 0.67, 0.6, True),
        ),
        "224": (
            (0.65, 0.3, 4.0, 0.69, 0.6, False),
            (0.65, 0.3, 3.0, 0.68, 0.6, False),
            (0.65, 0.3, 2.0, 0.68, 0.5, False),
            (0.65, 0.3, 1.0, 0.65, 1.5, True),
            (0.67, 0.4, 1.0, 0.65, 1.5, True),
        ),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, ...]) -> Draws:
        return {"normal": randomness.box_muller(keys, shape[1:])}

    def apply(self, x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
        mean, deviation, smoothing, threshold, strength, is_mud = constants

        def spattered(x: Tensor, normal: Tensor) -> Tensor:
            liquid = gaussian(normal.to(torch.float64) * deviation + mean, smoothing, bound=4)
            if is_mud:
                return soiled(x, mud(liquid > threshold, strength))
            # Beyond 1 the layer wraps around, as a cast to 8 bits does in the released code.
            levels = liquid.masked_fill(liquid < threshold, 0).mul(255).to(torch.int64).bitwise_and_(255)
            return wet(x, water(levels.to(torch.uint8)) * strength)

        return rowwise(spattered, x, draws["normal"])
