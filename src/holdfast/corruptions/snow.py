"""Snow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.colour import luma
from holdfast.imaging.motion import motion
from holdfast.imaging.rowwise import rowwise
from holdfast.imaging.zoom import clipped_zoom


@register
class Snow(Corruption):
    """Whitens the image and lets flakes fall over it in streaks, one layer and the same one turned by 180 degrees.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. As in the released code the flakes are normal noise, zoomed into, cut below a threshold and
    brought to 8 bits before and after the motion blur, whose angle lies between -135 and -45 degrees.

    ``table``: mean and deviation of the noise, in units of [0, 1]; the zoom's factor; the threshold, in units of
    [0, 1]; radius and deviation of the motion blur, in pixels; how much of the image is not whitened.
    """

    family: ClassVar = "weather"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
        ),
        "64": (
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.8),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.6),
        ),
        "224": (
            (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
            (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
            (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
        ),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, ...]) -> Draws:
        return {
            "normal": randomness.box_muller(randomness.fold(keys, 0), shape[1:]),
            "angle": randomness.uniform(randomness.fold(keys, 1), ()) * 90 - 135,
        }

    def apply(self, x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
        mean, deviation, factor, threshold, radius, sigma, kept = constants

        def snowed(x: Tensor, normal: Tensor, angle: Tensor) -> Tensor:
            flakes = clipped_zoom(normal.mul(deviation).add_(mean), factor)
            flakes = flakes.masked_fill_(flakes < threshold, 0).clamp_(0, 1).mul_(255).to(torch.uint8)
            flakes = motion(flakes[:, None], int(radius), sigma, angle, fine=True).to(torch.float32)
            levels = x.to(torch.float32)
            white = luma(levels).mul_(1.5).add_(127.5).expand_as(levels).maximum(levels).mul_(1 - kept)
            levels = levels.mul_(kept).add_(white).add_(flakes).add_(flakes.flip(2, 3))
            return levels.clamp_(0, 255).to(torch.uint8)

        return rowwise(snowed, x, draws["normal"], draws["angle"])
