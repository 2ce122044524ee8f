"""NI: momentum with Nesterov's look-ahead."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent.momentum import Gather, GatherAttack, check_decay
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class NI(GatherAttack):
    """Nesterov iterative method (NI-FGSM): MIM whose gradient is taken where its momentum leads. Made to transfer.

    Source: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks" (ICLR 2020), section
    3.1. Departures: the look-ahead is projected onto the set (see `holdfast.ascent.momentum`), so that it can be kept; as
    in the authors' code, the gradient is divided by its mean absolute value, not by its L1 norm, which would make the
    look-ahead vanish.

    Args:
        steps: how many steps.
        decay: the decay of the momentum (the paper's mu).
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

    def rule(self, threat: Threat) -> Gather:
        size = step_size(self.step_size, threat.stride(self.steps))
        return Gather(self.objective, self.steps, size, self.decay, nesterov=True)
