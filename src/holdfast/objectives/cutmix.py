"""CutMix: a box of another image, and as much of its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.mixing import Mixed, others, symmetric_beta
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat

BOX = keys.number("box")


@register
@dataclass(frozen=True)
class CutMix(Objective):
    """Cross-entropy on images with a box from another one, to both labels by area; with an attack, at its worst points.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features" (ICCV
    2019), section 3.1. With an attack, Rebuffi et al., "Fixing data augmentation to improve adversarial robustness" (2021),
    who found that it helps only where weights are averaged: it climbs that loss around the result.
    Departures: every image has a box of its own (the authors draw one for each batch), and none is its own partner.

    Args:
        attack: the inner maximisation, which climbs the mixed loss in place of its own; none unless given.
        alpha: of the Beta distribution of the share of the image that is left.
        share: of the images that get a box, from 0 to 1; the authors' code takes 0.5 on CIFAR.
    """

    operations: ClassVar[tuple[str, ...]] = ("cutmix",)

    attack: Attack | None = None
    alpha: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        options.positive("alpha", self.alpha)
        options.share("share", self.share)
        if self.attack is not None:
            options.climbs(self.attack)
            object.__setattr__(self, "operations", ("cutmix", "adversarial"))  # what this instance trains on

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Mixed:
        mixture = self._cut(batch)
        if self.attack is None:
            return mixture
        around = batch._replace(x=mixture.x)
        x = search(self.attack, model, around, threat, rises=lambda logits, y, target: mixture.loss(logits))
        return mixture._replace(x=x)

    def terms(self, model: nn.Module, prepared: Mixed) -> Terms:
        loss = prepared.loss(model(prepared.x)).mean()
        return Terms(loss, {"mixed": loss.detach()})

    def _cut(self, batch: Examples) -> Mixed:
        height, width = batch.x.shape[2:]
        other, label = others(batch)
        side = (1 - symmetric_beta(batch.key, self.alpha)).sqrt()
        chance, down, right = keys.uniform(keys.fold(batch.key, BOX), (3,), dtype=torch.float64).unbind(1)
        rows, columns = _within(down, side, height), _within(right, side, width)
        box = rows[:, None, :, None] & columns[:, None, None, :] & (chance < self.share)[:, None, None, None]
        left = 1 - box.flatten(1).to(batch.x.dtype).mean(1)
        return Mixed(torch.where(box, other, batch.x), batch.y, label, left)


def _within(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of ``size`` pixels lie in the box, (N, size) bool; centre and side (N,) in shares of ``size``, in whole pixels.

    What would lie outside the image is cut off, and counts for neither label.
    """
    centre, half = (centre * size).long()[:, None], ((side * size).long() // 2)[:, None]
    place = torch.arange(size, device=centre.device)
    return (place >= centre - half) & (place < centre + half)
