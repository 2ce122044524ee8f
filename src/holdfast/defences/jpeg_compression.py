"""JPEG compression before the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.defences.options import whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.errors import BadData
from holdfast.foundation.registry import register
from holdfast.imaging.jpeg import compressed


@register
@dataclass(frozen=True)
class JpegCompression(ViewDefence):
    """The model sees the image as it comes back from JPEG, chroma at half size.

    Source: Dziugaite, Ghahramani and Roy, "A study of the effect of JPG compression on adversarial images" (2016); Guo et
    al., "Countering adversarial images using input transformations" (ICLR 2018), quality 75. The image is
    rounded to 8 bits first; the result is Pillow's to the bit.

    It is flat almost everywhere, so gradients pass straight through it, which breaks it (Athalye, Carlini and Wagner,
    "Obfuscated gradients", ICML 2018).

    Args:
        quality: from 1 to 100.
    """

    backward = ("straight_through",)

    quality: int = 75

    def __post_init__(self) -> None:
        whole("quality", self.quality, 1, 100)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise BadData(f"JPEG holds 1 or 3 channels, not {x.shape[1]}", hint="give grey or RGB images")
        levels = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8)
        return compressed(levels, self.quality).to(x.dtype).div_(255)
