"""SI: momentum along the summed gradients of darker copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.momentum import Gather, GatherAttack, Gathering, check_decay
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@register
@dataclass(frozen=True)
class SI(GatherAttack):
    """Scale-invariant method (SI-NI-FGSM): each move sums the gradients of x, x/2, x/4 and so on. Made to transfer.

    Source: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks" (ICLR 2020), section
    3.3 and algorithm 1. Departures: those of `holdfast.attacks.ni`; only the undarkened copy is observed.

    Args:
        steps: how many moves; each takes ``copies`` forwards and gradients.
        copies: how many copies, the image itself included (the paper's m).
        decay: the decay of the momentum (the paper's mu).
        nesterov: take the gradients at the look-ahead (SI-NI-FGSM), else at the point (SI-MI-FGSM).
        step_size: the length of a move, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 10
    copies: int = 5
    decay: float = 1.0
    nesterov: bool = True
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("copies", self.copies)
        step_size(self.step_size, 0)
        check_decay(self.decay)

    def rule(self, threat: Threat) -> Gather:
        size = step_size(self.step_size, threat.stride(self.steps))
        return Gather(
            self.objective,
            self.steps,
            size,
            self.decay,
            views=self.copies,
            view=self._darker,
            nesterov=self.nesterov,
        )

    def _darker(self, state: Gathering) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        copy = state.count % self.copies
        brightness = torch.tensor([0.5**i for i in range(self.copies)], device=copy.device)[copy]
        return copy == 0, lambda x: x * per_row(brightness.to(x.dtype), x)
