"""Spatter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian
from holdfast.imaging.rowwise import rowwise
from holdfast.imaging.splashes import water, wet
from holdfast.perturbations.perturbation import Draws, Perturbation

_Constants = tuple[int, float, float, float, float, tuple[float, ...]]

_LIGHT = 0.6
"""The strength of the drops' light."""


@register
class Spatter(Perturbation):
    """Drops of water on the lens run down it.

    Source: the released code of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", ICLR 2019: one of the perturbations for tuning. The liquid is smoothed normal noise above a
    threshold; from frame to frame it is filtered along its columns. Departure: frames from which all liquid has run off,
    which are black there, are the image itself.

    ``table``: frames; the noise's mean and standard deviation, in units of [0, 1]; its smoothing, in pixels; the threshold,
    in units of [0, 1]; the filter: the shares of the liquid that stay and that run down by a row where there are two; where
    there are four, that go up by a row, stay, and run down by one row and by two.
    """

    standing: ClassVar = "extra"
    noise: ClassVar = False
    table: ClassVar = {
        "32": ((31, 0.6, 0.265, 1.75, 0.7, (0.2, 0.8)),),
        "64": ((31, 0.6, 0.25, 1.75, 0.7, (0.2, 0.8)),),
        "224": ((31, 0.65, 0.27, 3.7, 0.69, (0.05, 0.1, 0.15, 0.7)),),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: _Constants) -> Draws:
        return {"normal": randomness.box_muller(keys, shape[1:])}

    def apply(self, x: Tensor, constants: _Constants, draws: Draws) -> Tensor:
        count, mean, deviation, smoothing, threshold, shares = constants

        def spattered(x: Tensor, normal: Tensor) -> Tensor:
            liquid = gaussian(normal.to(torch.float64) * deviation + mean, smoothing, bound=4)
            liquid.masked_fill_(liquid < threshold, 0)
            frames = []
            for _ in range(count):
                levels = (liquid * 255).to(torch.int64).bitwise_and_(255)
                frames.append(wet(x, water(levels.to(torch.uint8)) * _LIGHT))
                liquid = _dripped(liquid, shares)
            return torch.stack(frames, 1)

        return rowwise(spattered, x, draws["normal"])


def _dripped(liquid: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The liquid (N,H,W) one frame later: what leaves the image is lost, and none comes in."""
    high, above = liquid.shape[1], (len(shares) - 1) // 2
    padded = torch.nn.functional.pad(liquid, (0, 0, len(shares) - 1 - above, above))
    later = torch.zeros_like(liquid)
    for index, share in enumerate(shares):
        start = len(shares) - 1 - index
        later += share * padded[:, start : start + high]
    return later
