"""MIM: BIM along accumulated gradients."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent import starts
from holdfast.ascent.momentum import check_decay
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class MIM(SteepestAttack):
    """Momentum iterative method (MI-FGSM): BIM along a decaying sum of normalised gradients.

    Source: Dong et al., "Boosting adversarial attacks with momentum" (CVPR 2018), algorithm 1.
    Departure: the gradient is divided by its mean absolute value instead of its L1 norm, a constant factor that the
    steepest direction removes again.

    Args:
        steps: how many steps.
        decay: the decay of the sum (the paper's mu).
        step_size: the length of a step, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 10
    decay: float = 1.0
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        step_size(self.step_size, 0)
        check_decay(self.decay)

    def rule(self, threat: Threat) -> Steepest:
        size = step_size(self.step_size, threat.stride(self.steps))
        return Steepest(self.objective, steps=self.steps, size=size, start=starts.clean, momentum=self.decay)
