"""Motion blur."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.motion import motion


@register
class MotionBlur(Corruption):
    """Smears the image along a line, as a camera does that moves: the direction is drawn from -45 to 45 degrees.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3; the blur is ImageMagick's, which looks to one side only and rounds down.

    ``table``: the radius (the line has 2 * radius + 1 points) and the standard deviation along it, in pixels.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        "64": ((10, 1.0), (10, 1.5), (10, 2.0), (10, 2.5), (12, 3.0)),
        "224": ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {"angle": randomness.uniform(keys, ()) * 90 - 45}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        radius, sigma = constants
        return motion(x, radius, sigma, draws["angle"])
