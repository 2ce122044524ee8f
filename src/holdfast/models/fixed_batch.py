"""A classifier that takes batches of one size only, as one that takes any."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedBatch(nn.Module):
    """Evaluates ``core`` on ``size`` images at a time; a last part that is shorter is filled up with its own first image."""

    def __init__(self, core: nn.Module, size: int) -> None:
        super().__init__()
        self.core = core
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        short = -len(images) % self.size
        filled = torch.cat([images, images[:1].expand(short, -1, -1, -1)]) if short else images
        return torch.cat([self.core(part) for part in filled.split(self.size)])[: len(images)]

    def extra_repr(self) -> str:
        return f"size={self.size}"
