"""Interpolated adversarial training: mixup of clean images, and of adversarial ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.mixing import mixed
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Interpolated:
    """The mean of the mixup losses on clean images and on their adversarial points.

    Source: Lamb et al., "Interpolated adversarial training: achieving robust neural networks without sacrificing too much
    accuracy" (AISec 2019), algorithm 1: the attack moves the unmixed images against their own labels, and then they are
    mixed. Clean and adversarial images draw partners and weights anew.
    Departures: those of `mixup`.

    Args:
        attack: the inner maximisation, of its own loss; the authors take 7 steps of 2/255.
        alpha: of the Beta distribution of the weights.
    """

    operations: ClassVar[tuple[str, ...]] = ("mixup", "adversarial")

    attack: Attack
    alpha: float = 1.0

    def __post_init__(self) -> None:
        options.positive("alpha", self.alpha)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        x = search(self.attack, model, batch, threat)
        first = mixed(batch.x, batch.y, keys.fold(batch.key, 0), self.alpha)
        second = mixed(x, batch.y, keys.fold(batch.key, 1), self.alpha)
        clean, adversarial = first.loss(model(first.x)).mean(), second.loss(model(second.x)).mean()
        return Terms((clean + adversarial) / 2, {"clean": clean.detach(), "adversarial": adversarial.detach()})
