"""Snow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.foundation.registry import register
from holdfast.imaging.colour import luma
from holdfast.imaging.motion import motion
from holdfast.imaging.zoom import clipped_zoom
from holdfast.perturbations.perturbation import Draws, Perturbation

_KEPT = 0.85
"""The share of the image that is not whitened."""


@register
class Snow(Perturbation):
    """Snow falls over a whitened image; the flakes stay where they are and their direction turns from frame to frame.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code: flakes are normal noise, zoomed and cut off below a threshold; their streaks
    are laid over the image twice, the second time turned by 180 degrees.

    ``table``: frames; the noise's mean and standard deviation, in units of [0, 1]; its zoom and threshold; radius and
    standard deviation of the streaks, in pixels; their first angle, and its change from frame to frame, in degrees.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {
        "32": ((31, 0.05, 0.3, 2, 0.5, 10, 2.0, -150, 4),),
        "64": ((31, 0.05, 0.28, 2, 0.5, 10, 2.5, -150, 4),),
        "224": ((31, 0.05, 0.3, 3, 0.5, 14, 4.0, -150, 4),),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, ...]) -> Draws:
        return {"normal": randomness.box_muller(keys, shape[1:])}

    def apply(self, x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
        count, mean, deviation, zoom, threshold, radius, sigma, first, step = constants
        flakes = clipped_zoom(draws["normal"] * deviation + mean, zoom)
        flakes = flakes.mul_(flakes >= threshold).clamp_(max=1).mul_(255).to(torch.uint8)
        levels = x.to(torch.float32)
        white = _KEPT * levels + (1 - _KEPT) * torch.maximum(levels, 1.5 * luma(levels) + 127.5)
        frames = []
        for angle in first + step * torch.arange(count):
            streaks = motion(flakes[None], int(radius), sigma, angle[None], fine=True).to(torch.float32)[0]
            fallen = streaks.add_(streaks.flip(-1, -2))[:, None]
            frames.append((white + fallen).clamp_(max=255).to(torch.uint8))
        return torch.stack(frames, 1)
