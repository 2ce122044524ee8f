"""Pixelate."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.resample import box


@register
class Pixelate(Corruption):
    """Shrinks the image by averaging and enlarges it again by repeating.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. The released code resizes twice with Pillow's BOX filter; this is its result to the bit, on
    every device.

    ``table``: the shrunken side, as a share of the side.
    """

    family: ClassVar = "digital"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (0.95, 0.9, 0.85, 0.75, 0.65),
        "64": (0.9, 0.8, 0.7, 0.6, 0.5),
        "224": (0.6, 0.5, 0.4, 0.3, 0.25),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        height, width = x.shape[-2:]
        return box(box(x, (int(height * constants), int(width * constants))), (height, width))
