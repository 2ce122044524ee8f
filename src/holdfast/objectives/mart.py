"""MART: misclassified images count more in the divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.losses import kl, true_logit
from holdfast.objectives import options
from holdfast.objectives.inner import Pairs, check, moved
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class MART(Objective):
    """Boosted cross-entropy at adversarial points, and a divergence weighted by how wrong the clean prediction is.

    Source: Wang et al., "Improving adversarial robustness requires revisiting misclassified examples" (ICLR 2020):
    BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)), where BCE adds -log(1 - the largest wrong
    probability) to the cross-entropy. Every factor has a gradient, as in the authors' code.
    Departures: the search starts where the attack says (theirs from N(0, 0.001) around the image); 1 - p is taken on
    logarithms, where the authors add small constants.

    Args:
        attack: the inner maximisation; the authors take 10 steps of a quarter of the radius.
        beta: the weight of the divergence (the paper's lambda): 5 for ResNet-18, 6 for wide nets.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    beta: float = 5.0
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.weight("beta", self.beta)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Pairs:
        return Pairs(batch.x, moved(self.attack, model, batch, threat, self.climbs), batch.y)

    def terms(self, model: nn.Module, prepared: Pairs) -> Terms:
        logits, clean = model(prepared.moved), model(prepared.x)
        boosted = boosted_ce(logits, prepared.y).mean()
        missing = 1 - true_logit(clean.softmax(1), prepared.y)
        divergence = (kl(logits, clean) * missing).mean()
        loss = boosted + self.beta * divergence
        return Terms(loss, {"boosted": boosted.detach(), "divergence": divergence.detach()})


def boosted_ce(logits: Tensor, y: Tensor) -> Tensor:
    """``-log p_y - log(1 - max_{k != y} p_k)``, (N,): the paper's boosted cross-entropy."""
    log_p = logits.log_softmax(1)
    wrong = log_p.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # What is not the worst wrong class, summed: 1 - p rounds to 0 where that class is certain.
    rest = log_p.scatter(1, wrong, -torch.inf).logsumexp(1)
    return -true_logit(log_p, y) - rest
