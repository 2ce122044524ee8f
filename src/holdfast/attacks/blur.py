"""Gaussian blur of growing width. A baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.growing import Growing
from holdfast.ascent.state import Rows
from holdfast.attacks.options import at_least_one, positive
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class Blur(Growing):
    """Gaussian blur: the image blurred with a wider kernel at every step; at its edges the kernel is cut off.

    A baseline: a model that falls to it has no robustness to speak of. The set bounds how far a blurred image may lie from
    the clean one; what is further away does not count.

    Source: the blur baseline of Rauber, Brendel and Bethge, "Foolbox: a Python toolbox to benchmark the robustness of
    machine learning models" (2017).

    Args:
        steps: how many widths are tried.
        widest: the last one, the kernel's standard deviation as a share of the image's longer side.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100
    widest: float = 0.25

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        positive("widest", self.widest)

    def point(self, rows: Rows, share: Tensor, key: Tensor) -> Tensor:
        x = rows.x0.clone()
        for one in share.unique().tolist():
            chosen = (share == one).nonzero()[:, 0]
            width = one * self.widest * max(x.shape[2:])
            upright = _blurred(x[chosen], width)
            x[chosen] = _blurred(upright.transpose(2, 3), width).transpose(2, 3).clamp(0, 1)
        return x


def _blurred(x: Tensor, width: float) -> Tensor:
    """Down the columns. Line by line: a matrix product would round a row differently in another batch."""
    place = torch.arange(x.shape[2], dtype=torch.float64, device=x.device)
    weight = torch.exp(-((place[:, None] - place) / width).square() / 2)
    weight = (weight / weight.sum(1, keepdim=True)).to(x.dtype)
    total = torch.zeros_like(x)
    for i in range(x.shape[2]):
        total = total + weight[:, i, None] * x[:, :, i, None]
    return total
