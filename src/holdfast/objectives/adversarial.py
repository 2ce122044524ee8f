"""Adversarial training: cross-entropy at the worst points that an attack finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.inner import worst
from holdfast.ascent.state import Rows
from holdfast.foundation.registry import register
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Adversarial:
    """Cross-entropy at the points that ``attack`` finds.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), equation 2.1.
    Departure: the attack sees the model in eval mode (Pang et al., "Bag of tricks for adversarial training", ICLR 2021),
    so that batch norm's running statistics are those of the points that are trained on.

    Args:
        attack: the inner maximisation.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        with frozen(model):
            rows = Rows(batch.x, batch.y, torch.full_like(batch.y, -1), batch.key, threat)
            x = worst(self.attack, model, rows)
        loss = F.cross_entropy(model(x), batch.y)
        return Terms(loss, {"adversarial": loss.detach()})
