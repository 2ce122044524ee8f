"""RS-FGSM: one step along the gradient from a random point."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent import starts
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import positive
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class RSFGSM(SteepestAttack):
    """FGSM from a random start: one step of ``alpha`` radii from a uniform point of the set, then the projection.

    Source: Wong, Rice and Kolter, "Fast is better than free: revisiting adversarial training" (ICLR 2020), algorithm 3.

    Args:
        alpha: the step's length, in radii.
        loss: what rises (see `holdfast.losses`).
    """

    alpha: float = 1.25
    loss: str = "ce"

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)

    def rule(self, threat: Threat) -> Steepest:
        return Steepest(self.objective, steps=1, size=threat.stride(1, self.alpha), start=starts.uniform)
