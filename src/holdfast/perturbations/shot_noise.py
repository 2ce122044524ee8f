"""Shot noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.foundation.registry import register
from holdfast.imaging.photons import counted, shown
from holdfast.perturbations.perturbation import Draws, Perturbation


@register
class ShotNoise(Perturbation):
    """Counts photons anew in every frame but the first: each value becomes Poisson(value * c) / c.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, and the released code. Draws may also be ``counts``, the Poisson draws themselves.

    ``table``: frames; the photons c that a value of 1 stands for.
    """

    standing: ClassVar = "test"
    noise: ClassVar = True
    table: ClassVar = {
        "32": ((31, 700), (31, 400), (31, 200)),
        "64": ((31, 500), (31, 250), (31, 125)),
        "224": ((31, 300), (31, 120), (31, 60)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[int, int]) -> Draws:
        return {"uniform": randomness.uniform(keys, (constants[0] - 1, *shape))}

    def apply(self, x: Tensor, constants: tuple[int, int], draws: Draws) -> Tensor:
        clean, photons = x[:, None], constants[1]
        if "counts" in draws:
            return torch.cat([clean, shown(draws["counts"], photons)], 1)
        return torch.cat([clean, counted(clean.expand_as(draws["uniform"]), photons, draws["uniform"])], 1)
