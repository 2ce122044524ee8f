"""Fewer grey levels before the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast.defences.options import whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register
from holdfast.imaging.squeezing import coarse


@register
@dataclass(frozen=True)
class BitDepth(ViewDefence):
    """The model sees every value at the nearest of ``2 ** bits`` levels.

    Source: Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS
    2018): 4 or 5 bits on CIFAR-10 and ImageNet, 1 on MNIST.

    It is flat almost everywhere, so gradients pass straight through it, which breaks it (Athalye, Carlini and Wagner,
    "Obfuscated gradients", ICML 2018).

    Args:
        bits: from 1 to 8.
    """

    backward = ("straight_through",)

    bits: int = 4

    def __post_init__(self) -> None:
        whole("bits", self.bits, 1, 8)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        return coarse(x, self.bits)
