"""Interpolated adversarial training: mixup of clean images, and of adversarial ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import check, moved
from holdfast.objectives.mixing import Mixed, mixed
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


class Both(NamedTuple):
    """Mixtures of ``clean`` images, and of ``adversarial`` ones."""

    clean: Mixed
    adversarial: Mixed


@register
@dataclass(frozen=True)
class Interpolated(Objective):
    """The mean of the mixup losses on clean images and on their adversarial points.

    Source: Lamb et al., "Interpolated adversarial training: achieving robust neural networks without sacrificing too much
    accuracy" (AISec 2019), algorithm 1: the attack moves the unmixed images against their own labels, and then they are
    mixed. Clean and adversarial images draw partners and weights anew.
    Departures: those of `mixup`.

    Args:
        attack: the inner maximisation; the authors take 7 steps of 2/255.
        alpha: of the Beta distribution of the weights.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("mixup", "adversarial")
    divisible: ClassVar[bool] = False  # an image needs its partner's adversarial point

    attack: Attack
    alpha: float = 1.0
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.positive("alpha", self.alpha)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Both:
        x = moved(self.attack, model, batch, threat, self.climbs)
        draws = [
            batch._replace(x=images, key=keys.fold(batch.key, number)) for number, images in enumerate((batch.x, x))
        ]
        return Both(*(mixed(each, self.alpha) for each in draws))

    def terms(self, model: nn.Module, prepared: Both) -> Terms:
        clean, adversarial = (each.loss(model(each.x)).mean() for each in prepared)
        return Terms((clean + adversarial) / 2, {"clean": clean.detach(), "adversarial": adversarial.detach()})
