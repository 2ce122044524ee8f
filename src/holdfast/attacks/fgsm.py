"""FGSM: one full step along the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent import starts
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class FGSM(SteepestAttack):
    """Fast gradient sign method: one full step from the clean image along the steepest direction.

    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples" (ICLR 2015), section 4.
    Departure: outside Linf the step follows that set's steepest direction.

    Args:
        loss: what rises (see `holdfast.losses`).
    """

    loss: str = "ce"

    def rule(self, threat: Threat) -> Steepest:
        return Steepest(self.objective, steps=1, size=threat.stride(1), start=starts.clean)
