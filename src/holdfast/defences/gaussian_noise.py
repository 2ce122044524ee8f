"""Gaussian noise: an image is judged by noisy copies of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from holdfast import keys
from holdfast.defences.options import between, whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class GaussianNoise(ViewDefence):
    """The mean of the probabilities of copies with Gaussian noise.

    Source: the baseline of Pang, Xu and Zhu, "Mixup inference" (ICLR 2020), and the authors' code, whose 0.05 on
    images in [-1, 1] is 0.025 here. As there the copies are not clipped to [0, 1]. No guarantee comes with it; see
    `holdfast.defences.smoothing` for one.

    Args:
        sigma: the noise's standard deviation.
        num_draws: how many copies.
        seed: of all draws.
    """

    sigma: float = 0.025
    num_draws: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        between("sigma", self.sigma, 0, math.inf, 0.025)
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        return noisy(x, key, self.sigma)


def noisy(x: Tensor, key: Tensor, sigma: float) -> Tensor:
    """Images (R, C, H, W) with Gaussian noise of ``sigma``, drawn by their keys, (R,)."""
    return x + keys.box_muller(key, x.shape[1:]).mul_(sigma).to(x.dtype)
