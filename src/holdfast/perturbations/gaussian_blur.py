"""Gaussian blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class GaussianBlur(Perturbation):
    """Blurs the image with a Gaussian that widens from frame to frame.

    Source: the released code of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", ICLR 2019: one of the perturbations for tuning.

    ``table``: frames; the first standard deviation, and its change from frame to frame, in pixels; at how many of them the
    kernel ends.
    """

    standing: ClassVar = "extra"
    noise: ClassVar = False
    table: ClassVar = {
        "32": ((31, 0.3, 0.015, 7.0),),
        "64": ((31, 0.35, 0.014, 7.0),),
        "224": ((31, 0.25, 0.035, 6.0),),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float, float, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float, float, float], draws: Draws) -> Tensor:
        count, first, step, truncate = constants
        widths = [first + step * index for index in range(count)]
        return torch.stack([gaussian(x, width, bound=256, truncate=truncate) for width in widths], 1)
