"""Mixup: images and labels mixed in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.mixing import Mixed, mixed
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Mixup(Objective):
    """Cross-entropy on mixtures of two images, to the mixture of their labels; with an attack, at its worst points.

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (ICLR 2018), section 2. With an attack, Rice, Wong
    and Kolter, "Overfitting in adversarially robust deep learning" (ICML 2020): it climbs that loss around the mixture.
    Departures: every image has a weight of its own (the authors draw one for each batch), and none is its own partner.

    Args:
        attack: the inner maximisation, which climbs the mixed loss in place of its own; none unless given.
        alpha: of the Beta distribution of the weights: 1 on CIFAR, 0.2 to 0.4 on ImageNet, 1.4 with an attack.
    """

    operations: ClassVar[tuple[str, ...]] = ("mixup",)

    attack: Attack | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        options.positive("alpha", self.alpha)
        if self.attack is not None:
            options.climbs(self.attack)
            object.__setattr__(self, "operations", ("mixup", "adversarial"))  # what this instance trains on

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Mixed:
        mixture = mixed(batch, self.alpha)
        if self.attack is None:
            return mixture
        around = batch._replace(x=mixture.x)
        x = search(self.attack, model, around, threat, rises=lambda logits, y, target: mixture.loss(logits))
        return mixture._replace(x=x)

    def terms(self, model: nn.Module, prepared: Mixed) -> Terms:
        loss = prepared.loss(model(prepared.x)).mean()
        return Terms(loss, {"mixed": loss.detach()})
