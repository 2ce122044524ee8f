"""Half clean, half adversarial: a part of each batch is attacked, the rest stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import check, moved
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat

CHOSEN = keys.number("attacked")


class Replaced(NamedTuple):
    """Images ``x`` (N, C, H, W), labels ``y`` (N,) int64, and which images were replaced, ``chosen`` (M,) int64."""

    x: Tensor
    y: Tensor
    chosen: Tensor


@register
@dataclass(frozen=True)
class HalfClean(Objective):
    """Cross-entropy on a batch of which a share is replaced by adversarial points.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), in the form of Kurakin,
    Goodfellow and Bengio, "Adversarial machine learning at scale" (ICLR 2017), algorithm 1: both kinds in one batch, and a
    weight for the adversarial ones. Only the images that are replaced are attacked.
    Departures: which images is drawn (there the first ones); the attack climbs the loss of the true class at the full
    radius (there a single step towards the least likely class, which leaks no label, at a random radius).

    Args:
        attack: the inner maximisation.
        share: of the images that are replaced, from 0 to 1; rounded to whole images.
        weight: of an adversarial image in the mean, where a clean one has 1; 0.3 on ImageNet there.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)
    divisible: ClassVar[bool] = False  # which images are attacked is drawn for the batch, and they may weigh more

    attack: Attack
    share: float = 0.5
    weight: float = 1.0
    smoothing: float = 0.0
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.share("share", self.share)
        options.positive("weight", self.weight)
        options.share("smoothing", self.smoothing)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Replaced:
        count = int(self.share * len(batch.x) + 0.5)
        chosen = keys.fold(batch.key, CHOSEN).argsort(stable=True)[:count]
        attacked = Examples(batch.x[chosen], batch.y[chosen], batch.key[chosen])
        x = moved(self.attack, model, attacked, threat, self.climbs)
        return Replaced(batch.x.index_copy(0, chosen, x), batch.y, chosen)

    def terms(self, model: nn.Module, prepared: Replaced) -> Terms:
        x, y, chosen = prepared
        values = F.cross_entropy(model(x), y, reduction="none", label_smoothing=self.smoothing)
        count = len(chosen)
        weights = values.new_ones(len(values)).index_fill(0, chosen, self.weight)
        loss = (weights * values).sum() / weights.sum()
        adversarial = values.detach()[chosen].sum() / max(1, count)
        clean = (values.detach().sum() - count * adversarial) / max(1, len(values) - count)
        return Terms(loss, {"clean": clean, "adversarial": adversarial})
