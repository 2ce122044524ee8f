"""DI: momentum along gradients of randomly shrunk copies."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.ascent.diverse import shrunk_at_random
from holdfast.ascent.momentum import Gather, GatherAttack, check_decay
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class DI(GatherAttack):
    """Diverse inputs (M-DI2-FGSM): MIM that often sees the image shrunk and moved, at random. Made to transfer.

    Source: Xie et al., "Improving transferability of adversarial examples with input diversity" (CVPR 2019), section 3.2.
    Departures: those of `holdfast.ascent.diverse`; the first gradient is always that of the image itself.

    Args:
        steps: how many steps.
        probability: how often a step sees the image shrunk (the paper's p).
        smallest: the smallest share of height and width that it is shrunk to.
        decay: the decay of the momentum; 0 is the paper's DI2-FGSM.
        step_size: the length of a step, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 10
    probability: float = 0.5
    smallest: float = 0.9
    decay: float = 1.0
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        shrunk_at_random(self.probability, self.smallest)
        step_size(self.step_size, 0)
        check_decay(self.decay)

    def rule(self, threat: Threat) -> Gather:
        size = step_size(self.step_size, threat.stride(self.steps))
        view = shrunk_at_random(self.probability, self.smallest)
        return Gather(self.objective, self.steps, size, self.decay, view=view)
