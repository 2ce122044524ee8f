"""Blue noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.rowwise import rowwise


@register
class BlueNoise(Corruption):
    """Adds noise of fine grain only: normal draws less their mean over the neighbours, so that nothing of it survives
    a blur.

    Source: ours, after the blue noise of Mintun, Kirillov and Xie, "On interaction between augmentations and corruptions
    in natural corruption robustness", NeurIPS 2021 (ImageNet-C-bar). Departure: theirs shapes the spectrum, ours takes
    the 3 x 3 binomial mean away, on a torus.

    ``table``: the noise's standard deviation, in units of [0, 1].
    """

    family: ClassVar = "noise"
    standing: ClassVar = "held_out"
    table: ClassVar = {
        "32": (0.05, 0.07, 0.09, 0.11, 0.13),
        "64": (0.07, 0.1, 0.13, 0.16, 0.19),
        "224": (0.1, 0.14, 0.18, 0.22, 0.26),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {"normal": randomness.box_muller(keys, shape)}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        def noisy(x: Tensor, normal: Tensor) -> Tensor:
            mean = normal
            for axis in (2, 3):
                mean = mean.roll(1, axis).add_(mean.roll(-1, axis)).mul_(0.25).add_(mean * 0.5)
            scale = 255 * constants / _DEVIATION
            return normal.sub(mean).mul_(scale).add_(x).clamp_(0, 255).to(torch.uint8)

        return rowwise(noisy, x, draws["normal"])


_DEVIATION = (1 - 2 * 0.25 + 0.375**2) ** 0.5
"""Of a draw less its binomial mean: the middle's weight is 1/4, and the sum of all squared weights (3/8)**2."""
