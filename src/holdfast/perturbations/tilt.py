"""Tilt."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation.registry import register
from holdfast.imaging.geometry import Matrix, projective
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class Tilt(Perturbation):
    """Tilts the image in space about its horizontal and its vertical axis at once; the middle frame is the image itself.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code, with the 1/32 of a pixel that its OpenCV read at. The eye is as far away as
    the diagonal is long.

    ``table``: frames; degrees from frame to frame.
    """

    standing: ClassVar = "test"
    noise: ClassVar = False
    table: ClassVar = {"32": ((31, 0.75),), "64": ((31, 1.0),), "224": ((31, 1.0),)}

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
        count, step = constants
        size = (x.shape[2], x.shape[3])
        return projective(x, [_tilted(size, step * (index - count // 2)) for index in range(count)])


def _tilted(size: tuple[int, int], degrees: float) -> Matrix:
    """From the tilted image's pixels to the image's."""
    high, wide = size
    far = math.hypot(wide, high)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def matrix(*rows: tuple[float, float, float]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    # As released, the image's plane lies one pixel behind the point about which it turns.
    centred = matrix((1, 0, -wide / 2), (0, 1, -high / 2), (0, 0, 1))
    turned = (
        matrix((1, 0, 0), (0, cos, -sin), (0, sin, cos)) @ matrix((cos, 0, -sin), (0, 1, 0), (sin, 0, cos)) @ centred
    )
    pushed = turned + matrix((0, 0, 0), (0, 0, 0), (0, 0, far))
    seen = matrix((far, 0, wide / 2), (0, far, high / 2), (0, 0, 1)) @ pushed
    return tuple(torch.linalg.inv(seen).flatten().tolist())
