"""JPEG compression."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.jpeg import compressed


@register
class JpegCompression(Corruption):
    """Writes the image as JPEG and reads it again: blocks of 8 x 8, colour at half the resolution.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. The released code leaves all but the quality to Pillow, so this is Pillow's result to the bit,
    on every device.

    ``table``: the quality, 1 to 100.
    """

    family: ClassVar = "digital"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (80, 65, 58, 50, 40),
        "64": (65, 58, 50, 40, 25),
        "224": (25, 18, 15, 10, 7),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: int) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: int, draws: Draws) -> Tensor:
        return compressed(x, constants)
