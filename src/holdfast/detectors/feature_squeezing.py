"""Feature squeezing: an answer that changes with the image's finest detail is suspicious."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.imaging.squeezing import coarse, median


@register
@dataclass(frozen=True)
class FeatureSqueezing:
    """The largest L1 distance, in [0, 2], of the probabilities from those of the squeezed images.

    Source: Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS 2018),
    section V: the joint detector. They take 5 bits and a median of 2 by 2 for colour images, 1 bit and 2 by 2 for MNIST.
    Departures: non-local means, their third squeezer for colour images, is left out. The gradient passes straight through
    the rounding (Athalye et al., ICML 2018, section 4.1).

    He et al., "Adversarial example defenses: ensembles of weak defenses are not strong" (WOOT 2017), broke it. It learns
    nothing from the clean images, and costs three forwards.

    Args:
        bits: of each value, 1 to 8.
        size: side of the square whose median a value becomes, in pixels.
    """

    flat: ClassVar[str] = ""

    bits: int = 5
    size: int = 2

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9):
            raise BadValue(f"bits is {self.bits!r}; it must be 1 to 8", hint="5 for colour images, 1 for MNIST")
        if self.size not in range(2, 64):
            raise BadValue(f"size is {self.size!r}; it must be 2 to 63", hint="the paper uses 2 and 3")

    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        core, _ = prepared(module, x, y)

        def judge(x: Tensor) -> Judged:
            logits = core(torch.cat([x, x + (coarse(x, self.bits) - x).detach(), median(x, self.size)]))
            plain, *squeezed = logits.softmax(1).chunk(3)
            far = torch.stack([(plain - each).abs().sum(1) for each in squeezed])
            return Judged(logits[: len(x)], far.amax(0))

        return Fixed(judge)
