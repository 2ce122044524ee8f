"""Feature squeezing: a median filter and fewer grey levels before the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast.defences.options import whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register
from holdfast.imaging.squeezing import coarse, median


@register
@dataclass(frozen=True)
class FeatureSqueezing(ViewDefence):
    """The model sees the image after a median filter, at fewer grey levels.

    Sources: Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS 2018); He et
    al., "Adversarial example defenses: ensembles of weak defenses are not strong" (WOOT 2017), which applies both
    and breaks them. Departure: of the third squeezer, non-local means, there is none.

    Gradients pass straight through the levels, and in the opening ``straight_through`` through the median as well.

    Args:
        bits: see `holdfast.defences.bit_depth`.
        size: see `holdfast.defences.median`.
    """

    backward = ("true", "straight_through")

    bits: int = 5
    size: int = 2

    def __post_init__(self) -> None:
        whole("bits", self.bits, 1, 8)
        whole("size", self.size, 2)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        filtered = median(x, self.size)
        return coarse(filtered.detach(), self.bits) + (filtered - filtered.detach())  # exactly 0 is added
