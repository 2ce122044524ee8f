"""Random rotation: an image is judged by turned copies of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.defences.options import between, whole
from holdfast.defences.resampled import resampled
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class RandomRotation(ViewDefence):
    """The mean of the probabilities of copies turned about their centres by random angles.

    Source: the baseline of Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), with the angles of the authors'
    README. Departures: bilinear, not by the nearest pixel and through 8 bits, so that a gradient passes.

    Args:
        degrees: angles are uniform from minus so many degrees to plus so many; at most 180. Black comes in.
        num_draws: how many copies.
        seed: of all draws.
    """

    degrees: float = 20.0
    num_draws: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        between("degrees", self.degrees, 0, 180, 20)
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        angle = (2 * keys.uniform(key, (1, 1), dtype=x.dtype) - 1) * math.radians(self.degrees)
        return turned(x, angle)


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Images (R, C, H, W) turned clockwise about their centres by ``angle``, (R, 1, 1) in radians."""
    middle, centre = ((side - 1) / 2 for side in x.shape[-2:])
    down = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)[:, None] - middle
    right = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) - centre
    cosine, sine = angle.cos(), angle.sin()
    return resampled(x, cosine * down - sine * right + middle, cosine * right + sine * down + centre)
