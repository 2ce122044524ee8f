"""BIM: small steps along the gradient from the clean image."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent import starts
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class BIM(SteepestAttack):
    """Basic iterative method (I-FGSM): equal steps along the gradient from the clean image, each one projected.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world" (2017), section 2.2.

    Args:
        steps: how many steps.
        step_size: the length of a step, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 10
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        step_size(self.step_size, 0)

    def rule(self, threat: Threat) -> Steepest:
        size = step_size(self.step_size, threat.stride(self.steps))
        return Steepest(self.objective, steps=self.steps, size=size, start=starts.clean)
