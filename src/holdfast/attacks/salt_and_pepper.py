"""Salt and pepper: more and more random pixels turn black or white. A baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.growing import Growing
from holdfast.ascent.state import Rows
from holdfast.attacks.options import at_least_one
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class SaltAndPepper(Growing):
    """Salt-and-pepper noise: random pixels turn black or white, new ones with every step and more of them, up to eps.

    A baseline: a model that falls to it has no robustness to speak of.

    Source: the salt-and-pepper baseline of Rauber, Brendel and Bethge, "Foolbox: a Python toolbox to benchmark the
    robustness of machine learning models" (2017).

    Args:
        steps: how many strengths are tried.
    """

    threats = ("l0",)

    steps: int = 100

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)

    def point(self, rows: Rows, share: Tensor, key: Tensor) -> Tensor:
        x0 = rows.x0
        places = keys.uniform(keys.fold(key, 0), x0.shape[2:]).flatten(1)
        colours = keys.integers(keys.fold(key, 1), (1, *x0.shape[2:]), 2).to(x0.dtype)
        count = (share * min(rows.threat.eps, places.shape[1])).ceil()
        # The first places in a random order change; the sort is stable so that ties fall alike in every batch.
        rank = places.sort(dim=1, stable=True).indices.argsort(dim=1)
        return torch.where((rank < count[:, None]).view(-1, 1, *x0.shape[2:]), colours, x0)
