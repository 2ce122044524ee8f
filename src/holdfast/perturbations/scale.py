"""Scale."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.geometry import about_centre, affine
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class Scale(Perturbation):
    """Enlarges the image from frame to frame, from a small one in black, through its own size, to its middle.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code.

    ``table``: frames; the first scale, and its change from frame to frame, in per cent.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((31, 70, 2),), "64": ((31, 40, 2.5),), "224": ((31, 40, 2.5),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float, float], draws: Draws) -> Tensor:
        count, first, step = constants
        size = (x.shape[2], x.shape[3])
        return affine(x, [about_centre(size, scale=(index * step + first) / 100) for index in range(count)])
