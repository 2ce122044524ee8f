"""Contrast."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register


@register
class Contrast(Corruption):
    """Pulls each channel towards its mean over the image: x becomes (x - mean) * c + mean.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. As in the released code every channel has a mean of its own, so that a colour cast stays.

    ``table``: the factor c, without unit.
    """

    family: ClassVar = "digital"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (0.75, 0.5, 0.4, 0.3, 0.15),
        "64": (0.4, 0.3, 0.2, 0.1, 0.05),
        "224": (0.4, 0.3, 0.2, 0.1, 0.05),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        total = x.sum((2, 3), keepdim=True, dtype=torch.int64)  # of integers: exact in any order
        mean = (total.to(torch.float64) / (x.shape[2] * x.shape[3])).to(torch.float32)
        # A point between two levels is a level: nothing to clip.
        return x.to(torch.float32).sub_(mean).mul_(constants).add_(mean).to(torch.uint8)
