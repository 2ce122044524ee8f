"""Translate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.geometry import shift
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class Translate(Perturbation):
    """Moves the image from left to right by one column per frame, through its own place; black comes in.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code.

    ``table``: frames; the frame that is the image itself.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((16, 7),), "64": ((31, 15),), "224": ((41, 20),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, int]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, int], draws: Draws) -> Tensor:
        count, home = constants
        return torch.stack([shift(x, index - home) for index in range(count)], 1)
