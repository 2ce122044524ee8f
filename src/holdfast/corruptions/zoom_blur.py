"""Zoom blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.zoom import sum_of_zooms


def factors(count: int, step: float) -> tuple[float, ...]:
    """Those of numpy's arange, to the last bit: one of them makes 32.5 pixels, and which way that is rounded is seen."""
    step = (1 + step) - 1
    return tuple(1 + step * index for index in range(count))


@register
class ZoomBlur(Corruption):
    """Averages the image and zooms into its centre, as a camera does that flies ahead.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. As in the released code the factors begin at 1, so that the image itself counts twice, and
    rounding lets some lists run one step further than their stated end.

    ``table``: the factors.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (factors(7, 0.01), factors(12, 0.01), factors(16, 0.01), factors(21, 0.01), factors(26, 0.01)),
        "64": (factors(7, 0.01), factors(12, 0.01), factors(16, 0.01), factors(21, 0.01), factors(26, 0.01)),
        "224": (factors(12, 0.01), factors(16, 0.01), factors(11, 0.02), factors(13, 0.02), factors(11, 0.03)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, ...]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
        return sum_of_zooms(x, constants).add_(x).div_(len(constants) + 1).to(torch.uint8)
