"""ALP: the same logits for an image and its adversarial point. A specimen of masked gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
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
class ALP:
    """Adversarial logit pairing: cross-entropy on clean and adversarial images, and the distance between their logits.

    Source: Kannan, Kurakin and Goodfellow, "Adversarial logit pairing" (2018); the distance is the mean over
    images and classes of the squared differences, and both halves go through the net in one batch, as in their code.
    Departure: their search on ImageNet is targeted; here the attack decides.

    A specimen, not a recommendation: the robustness claimed on ImageNet was lost to a longer search (Engstrom, Ilyas and
    Athalye, "Evaluating and understanding the robustness of adversarial logit pairing", 2018). Pairing makes the loss
    rough around the images. Audit its nets with many steps, restarts, and attacks without gradients.

    Args:
        attack: the inner maximisation, of its own loss.
        weight: of the distance between logits.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    weight: float = 0.5

    def __post_init__(self) -> None:
        options.weight("weight", self.weight)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        x = search(self.attack, model, batch, threat)
        clean, moved = model(torch.cat([batch.x, x])).chunk(2)
        entropy = (F.cross_entropy(clean, batch.y) + F.cross_entropy(moved, batch.y)) / 2
        apart = F.mse_loss(clean, moved)
        loss = entropy + self.weight * apart
        return Terms(loss, {"entropy": entropy.detach(), "apart": apart.detach()})
