"""Contrast reduction: the image fades towards grey. A baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.growing import Growing, towards
from holdfast.ascent.state import Rows
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class ContrastReduction(Growing):
    """Contrast reduction: every pixel moves towards mid-grey, further with every step, up to the rim of the set.

    A baseline: a model that falls to it has no robustness to speak of.

    Source: the contrast baseline of Rauber, Brendel and Bethge, "Foolbox: a Python toolbox to benchmark the robustness of
    machine learning models" (2017).

    Args:
        steps: how many strengths are tried.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)

    def point(self, rows: Rows, share: Tensor, key: Tensor) -> Tensor:
        return towards(rows, torch.full_like(rows.x0, 0.5), share)
