"""TRADES: accuracy on clean images, and the same prediction all around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.losses import kl
from holdfast.objectives import options
from holdfast.objectives.inner import Pairs, diverging
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class TRADES(Objective):
    """Cross-entropy on clean images, and the divergence between the predictions there and at the worst points around.

    Source: Zhang et al., "Theoretically principled trade-off between robustness and accuracy" (ICML 2019), equation 5 and
    algorithm 1: CE(x) + beta KL(p(x) || p(x')), where x' maximises that divergence. Both sides have a gradient.
    Departures: the search starts from the attack's own start with the paper's noise, N(0, 0.001), added: ``start="clean"``
    is the paper. The clean reference of the search is computed once. Divergences are taken on logarithms, so that
    a probability of zero gives no NaN.

    Args:
        attack: the inner maximisation, which climbs the divergence in place of its own loss; the paper takes 10 steps
            of a quarter of the radius.
        beta: the weight of the divergence (the paper's 1 / lambda).
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    beta: float = 6.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.climbs(self.attack)
        options.weight("beta", self.beta)
        options.share("smoothing", self.smoothing)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Pairs:
        return Pairs(batch.x, diverging(self.attack, model, batch, threat), batch.y)

    def terms(self, model: nn.Module, prepared: Pairs) -> Terms:
        logits = model(prepared.x)
        clean = F.cross_entropy(logits, prepared.y, label_smoothing=self.smoothing)
        divergence = kl(model(prepared.moved), logits).mean()
        loss = clean + self.beta * divergence
        return Terms(loss, {"clean": clean.detach(), "divergence": divergence.detach()})
