"""Motion blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.motion import motion
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class MotionBlur(Perturbation):
    """Smears the image along a line whose direction turns from frame to frame, and ends horizontal.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code; the blur is ImageMagick's. Departure: the benchmark's Tiny ImageNet images
    were blurred before they were made small, these after.

    ``table``: frames; radius and standard deviation in pixels; degrees from frame to frame; the frame at 0 degrees.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {
        "32": ((21, 6, 1.8, 9, 20),),
        "64": ((31, 14, 3.0, 5, 30),),
        "224": ((31, 10, 3.0, 4, 30),),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, int, float, int, int]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, int, float, int, int], draws: Draws) -> Tensor:
        frames, radius, sigma, step, level = constants
        planes = x.view(1, -1, *x.shape[2:])  # all images of a frame go one way
        angles = (torch.arange(frames) - level) * step
        return torch.stack([motion(planes, radius, sigma, angle[None]).view(x.shape) for angle in angles], 1)
