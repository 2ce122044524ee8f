"""Half clean, half adversarial: a part of each batch is attacked, the rest stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat

CHOSEN = keys.number("attacked")


@register
@dataclass(frozen=True)
class HalfClean:
    """Cross-entropy on a batch of which a share is replaced by adversarial points.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), in the form of Kurakin,
    Goodfellow and Bengio, "Adversarial machine learning at scale" (ICLR 2017), algorithm 1: both kinds in one batch, and a
    weight for the adversarial ones. Only the images that are replaced are attacked.
    Departures: which images is drawn (there the first ones); the attack climbs the loss of the true class at the full
    radius (there a single step towards the least likely class, which leaks no label, at a random radius).

    Args:
        attack: the inner maximisation, of its own loss.
        share: of the images that are replaced, from 0 to 1; rounded to whole images.
        weight: of an adversarial image in the mean, where a clean one has 1; 0.3 on ImageNet there.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    share: float = 0.5
    weight: float = 1.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.share("share", self.share)
        options.positive("weight", self.weight)
        options.share("smoothing", self.smoothing)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        count = int(self.share * len(batch.x) + 0.5)
        chosen = keys.fold(batch.key, CHOSEN).argsort(stable=True)[:count]
        moved = search(self.attack, model, Examples(*(part[chosen] for part in batch)), threat)
        values = F.cross_entropy(
            model(batch.x.index_copy(0, chosen, moved)), batch.y, reduction="none", label_smoothing=self.smoothing
        )
        weights = values.new_ones(len(values)).index_fill(0, chosen, self.weight)
        loss = (weights * values).sum() / weights.sum()
        adversarial = values.detach()[chosen].sum() / max(1, count)
        clean = (values.detach().sum() - count * adversarial) / max(1, len(values) - count)
        return Terms(loss, {"clean": clean, "adversarial": adversarial})
