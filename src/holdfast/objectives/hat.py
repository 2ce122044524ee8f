"""HAT: TRADES, and further out the label that a net without robustness sees there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import kl
from holdfast.objectives import options
from holdfast.objectives.inner import diverging
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class HAT:
    """TRADES and a third term that keeps margins from growing further than they need to.

    Source: Rade and Moosavi-Dezfooli, "Reducing excessive margin to achieve a better accuracy vs. robustness trade-off"
    (ICLR 2022): CE(x) + beta KL(p(x) || p(x')) + gamma CE(f(x + h (x' - x)), the helper's class at x').
    Departures: those of `trades`; the helper point is clipped to [0, 1] (the authors leave it outside).

    Args:
        attack: the inner maximisation, which climbs the divergence in place of its own loss; the authors take 10 steps.
        helper: a net of the same classes trained by `standard`: images -> logits. It is evaluated in eval mode, and
            nothing can be trained without it.
        beta: the weight of the divergence; 3.5 with extra data.
        gamma: the weight of the helper's term.
        reach: how far out the helper point lies, in perturbations (h in the authors' code).
        smoothing: of the clean labels, as in `trades`.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    helper: Callable[[Tensor], Tensor] | None = None
    beta: float = 2.5
    gamma: float = 0.5
    reach: float = 2.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.climbs(self.attack)
        for name in ("beta", "gamma", "reach"):
            options.weight(name, getattr(self, name))
        options.share("smoothing", self.smoothing)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        if self.helper is None:
            raise BadValue(
                "hat has no helper; it needs the labels of a net that was trained without attacks",
                hint="train a net by Standard() first and give it as HAT(attack, helper=net)",
            )
        x = diverging(self.attack, model, batch, threat)
        with frozen(self.helper), torch.no_grad():
            label = self.helper(x).argmax(1)
        beyond = (batch.x + self.reach * (x - batch.x)).clamp(0, 1)
        logits = model(batch.x)
        clean = F.cross_entropy(logits, batch.y, label_smoothing=self.smoothing)
        divergence = kl(model(x), logits).mean()
        helped = F.cross_entropy(model(beyond), label)
        loss = clean + self.beta * divergence + self.gamma * helped
        parts = {"clean": clean.detach(), "divergence": divergence.detach(), "helper": helped.detach()}
        return Terms(loss, parts)
