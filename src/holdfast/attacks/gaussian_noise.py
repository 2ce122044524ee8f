"""Gaussian noise of growing length. A baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.growing import Growing
from holdfast.ascent.state import Rows
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register
from holdfast.threats.threat import rows as per_row


@register
@dataclass(frozen=True)
class GaussianNoise(Growing):
    """Gaussian noise: new noise with every step, longer than the last, up to the rim of the set.

    A baseline: a model that falls to it has no robustness to speak of. In Linf the standard deviation reaches eps, and
    what is larger is cut off; in L2 and L1 the noise as a whole reaches the length eps.

    Source: the noise baselines of Rauber, Brendel and Bethge, "Foolbox: a Python toolbox to benchmark the robustness of
    machine learning models" (2017).

    Args:
        steps: how many strengths are tried.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)

    def point(self, rows: Rows, share: Tensor, key: Tensor) -> Tensor:
        x0, threat = rows.x0, rows.threat
        noise = keys.normal(key, x0.shape[1:], dtype=x0.dtype)
        # No image is further away than the opposite corner of the box: a radius beyond it must not waste the steps.
        reach = threat.distance(x0, (x0 < 0.5).to(x0.dtype)).clamp_max(threat.eps)
        length = 1.0 if threat.name == "linf" else threat.distance(torch.zeros_like(noise), noise)
        radius = share * reach
        return threat.project(x0, x0 + per_row(radius / length, x0) * noise, radius=radius)
