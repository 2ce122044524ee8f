"""Shot noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.photons import counted, shown


@register
class ShotNoise(Corruption):
    """Counts photons: each value becomes Poisson(value * c) / c.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3.

    A uniform draw picks a count from the distribution of its value. Draws may also be ``counts``, the Poisson draws
    themselves.

    ``table``: the photons c that a value of 1 stands for.
    """

    family: ClassVar = "noise"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": (500, 250, 100, 75, 50),
        "64": (250, 100, 50, 30, 15),
        "224": (60, 25, 12, 5, 3),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: int) -> Draws:
        return {"uniform": randomness.uniform(keys, shape)}

    def apply(self, x: Tensor, constants: int, draws: Draws) -> Tensor:
        if "counts" in draws:
            return shown(draws["counts"], constants)
        return counted(x, constants, draws["uniform"])
