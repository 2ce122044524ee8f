"""Rotate."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.geometry import about_centre, affine
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class Rotate(Perturbation):
    """Turns the image clockwise from -15 to 15 degrees about its centre; the middle frame is the image itself.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code.

    ``table``: frames; degrees from frame to frame.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((31, 1.0),), "64": ((31, 1.0),), "224": ((31, 1.0),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        count, step = constants
        size = (x.shape[2], x.shape[3])
        return affine(x, [about_centre(size, angle=step * (index - count // 2)) for index in range(count)])
