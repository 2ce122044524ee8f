"""A median filter before the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast.defences.options import whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register
from holdfast.imaging.squeezing import median


@register
@dataclass(frozen=True)
class Median(ViewDefence):
    """The model sees every value replaced by the median of those around it, channel by channel.

    Source: Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS
    2018): 2 x 2 on CIFAR-10 and ImageNet. As in SciPy's filter, which they use, an even window reaches further up and left
    and takes the upper of the two middle values, and the image is mirrored about its edges.

    Its derivative is that of the one value taken; ``straight_through`` is the other opening.

    Args:
        size: of the window, at least 2.
    """

    backward = ("true", "straight_through")

    size: int = 2

    def __post_init__(self) -> None:
        whole("size", self.size, 2)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        return median(x, self.size)
