"""Gaussian blur."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian


@register
class GaussianBlur(Corruption):
    """Blurs with a Gaussian of standard deviation c that ends at 4 c; beyond the edge the last pixel goes on.

    Source: the released code of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", ICLR 2019: one of the four corruptions for tuning.

    ``table``: the standard deviation c, in pixels.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "validation"
    table: ClassVar = {
        "32": (0.4, 0.6, 0.7, 0.8, 1.0),
        "64": (0.5, 0.75, 1.0, 1.25, 1.5),
        "224": (1.0, 2.0, 3.0, 4.0, 6.0),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        return gaussian(x, constants, bound=256)
