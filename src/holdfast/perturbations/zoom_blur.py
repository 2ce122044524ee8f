"""Zoom blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.geometry import about_centre, affine
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class ZoomBlur(Perturbation):
    """Averages the image with ever larger versions of itself: frame i is the mean of the scales 1, 1 + c, ... 1 + ic.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code, whose sums in float32 are kept: they darken some values by 1 level.

    ``table``: frames; the step c.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((31, 0.004),), "64": ((31, 0.004),), "224": ((31, 0.004),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        count, step = constants
        scales = [about_centre((x.shape[2], x.shape[3]), scale=1 + step * index) for index in range(1, count)]
        frames = torch.cat([x[:, None], affine(x, scales)], 1)
        total = x.to(torch.float32).div_(255)
        for index in range(1, count):
            total += frames[:, index].to(torch.float32).div_(255)
            frames[:, index] = (total / (index + 1)).mul_(255)
        return frames
