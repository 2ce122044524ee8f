"""Adversarial training: cross-entropy at the worst points that an attack finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import check, moved
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Adversarial(Objective):
    """Cross-entropy at the points that ``attack`` finds.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), equation 2.1.
    Departure: the attack sees the model in eval mode (Pang et al., "Bag of tricks for adversarial training", ICLR 2021),
    so that batch norm's running statistics are those of the points that are trained on.

    Args:
        attack: the inner maximisation.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes. Helpful up to 0.2
            there, harmful above 0.3; the attack climbs the loss of the plain label.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    smoothing: float = 0.0
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.share("smoothing", self.smoothing)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Examples:
        return batch._replace(x=moved(self.attack, model, batch, threat, self.climbs))

    def terms(self, model: nn.Module, prepared: Examples) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y, label_smoothing=self.smoothing)
        return Terms(loss, {"adversarial": loss.detach()})
