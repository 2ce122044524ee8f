"""ALP: the same logits for an image and its adversarial point. A specimen of masked gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import Pairs, check, moved
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class ALP(Objective):
    """Adversarial logit pairing: cross-entropy on clean and adversarial images, and the distance between their logits.

    Source: Kannan, Kurakin and Goodfellow, "Adversarial logit pairing" (2018); the distance is the mean over
    images and classes of the squared differences, and both halves go through the net in one batch, as in their code.
    Departure: their search on ImageNet is targeted; here the attack decides.

    A specimen, not a recommendation: the robustness claimed on ImageNet was lost to a longer search (Engstrom, Ilyas and
    Athalye, "Evaluating and understanding the robustness of adversarial logit pairing", 2018). Pairing makes the loss
    rough around the images. Audit its nets with many steps, restarts, and attacks without gradients.

    Args:
        attack: the inner maximisation.
        weight: of the distance between logits.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    weight: float = 0.5
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.weight("weight", self.weight)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Pairs:
        return Pairs(batch.x, moved(self.attack, model, batch, threat, self.climbs), batch.y)

    def terms(self, model: nn.Module, prepared: Pairs) -> Terms:
        clean, moved = model(torch.cat([prepared.x, prepared.moved])).chunk(2)
        entropy = (F.cross_entropy(clean, prepared.y) + F.cross_entropy(moved, prepared.y)) / 2
        apart = F.mse_loss(clean, moved)
        loss = entropy + self.weight * apart
        return Terms(loss, {"entropy": entropy.detach(), "apart": apart.detach()})
