"""HAT: TRADES, and further out the label that a net without robustness sees there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import kl
from holdfast.objectives import options
from holdfast.objectives.inner import diverging
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


class Helped(NamedTuple):
    """Images ``x`` (N, C, H, W), their adversarial points ``moved``, the points ``beyond`` them; ``y`` (N,) int64, and the
    ``label`` (N,) that the helper gives the adversarial points."""

    x: Tensor
    moved: Tensor
    beyond: Tensor
    y: Tensor
    label: Tensor


@register
@dataclass(frozen=True)
class HAT(Objective):
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

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Helped:
        if self.helper is None:
            raise BadValue(
                "hat has no helper; it needs the labels of a net that was trained without attacks",
                hint="train a net by Standard() first and give it as HAT(attack, helper=net)",
            )
        moved = diverging(self.attack, model, batch, threat)
        with frozen(self.helper), torch.no_grad():
            label = self.helper(moved).argmax(1)
        beyond = (batch.x + self.reach * (moved - batch.x)).clamp(0, 1)
        return Helped(batch.x, moved, beyond, batch.y, label)

    def terms(self, model: nn.Module, prepared: Helped) -> Terms:
        logits = model(prepared.x)
        clean = F.cross_entropy(logits, prepared.y, label_smoothing=self.smoothing)
        divergence = kl(model(prepared.moved), logits).mean()
        helped = F.cross_entropy(model(prepared.beyond), prepared.label)
        loss = clean + self.beta * divergence + self.gamma * helped
        parts = {"clean": clean.detach(), "divergence": divergence.detach(), "helper": helped.detach()}
        return Terms(loss, parts)
