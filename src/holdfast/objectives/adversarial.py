"""Adversarial training: cross-entropy at the worst points that an attack finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
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
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes. Helpful up to 0.2
            there, harmful above 0.3; the attack climbs the loss of the plain label.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.share("smoothing", self.smoothing)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        x = search(self.attack, model, batch, threat)
        loss = F.cross_entropy(model(x), batch.y, label_smoothing=self.smoothing)
        return Terms(loss, {"adversarial": loss.detach()})
