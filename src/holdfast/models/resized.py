"""Images of one size for a classifier that takes another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Resized(nn.Module):
    """``core`` behind a bilinear, antialiased resizing of the whole image to ``size`` (H,W); differentiable.

    It is a part of the classifier: a radius is measured on the images as they are given.
    """

    def __init__(self, core: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.core = core
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return self.core(F.interpolate(images, self.size, mode="bilinear", antialias=True))

    def extra_repr(self) -> str:
        return f"size={self.size}"
