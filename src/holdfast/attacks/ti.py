"""TI: momentum along smoothed gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from holdfast.ascent.diverse import shrunk_at_random
from holdfast.ascent.momentum import Gather, GatherAttack, check_decay
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class TI(GatherAttack):
    """Translation-invariant method (TI-MI-FGSM): MIM along gradients smoothed by a Gaussian kernel. Made to transfer.

    Source: Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant attacks" (CVPR
    2019), section 3.2: to first order, the smoothed gradient is the mean of those of the shifted images.

    Args:
        steps: how many steps.
        kernel: the side of the kernel in pixels, odd, three standard deviations each way. The paper's 15 was made for images
            of 299 pixels, those of 32 stand 3 to 7.
        probability: how often a step sees the image shrunk as well, as in `holdfast.attacks.di` (above 0: TI-DIM).
        smallest: the smallest share of height and width that it is shrunk to.
        decay: the decay of the momentum; 0 is the paper's TI-FGSM.
        step_size: the length of a step, as a number or as text (``"1/255"``); one radius over ``steps`` unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 10
    kernel: int = 7
    probability: float = 0.0
    smallest: float = 0.9
    decay: float = 1.0
    step_size: float | str | None = None
    loss: str = "ce"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("kernel", self.kernel)
        if self.kernel % 2 == 0:
            raise BadValue(
                f"kernel is {self.kernel}; it must be odd, so that it has a middle", hint="for example kernel=7"
            )
        shrunk_at_random(self.probability, self.smallest)
        step_size(self.step_size, 0)
        check_decay(self.decay)

    def rule(self, threat: Threat) -> Gather:
        return Gather(
            self.objective,
            self.steps,
            step_size(self.step_size, threat.stride(self.steps)),
            self.decay,
            view=shrunk_at_random(self.probability, self.smallest) if self.probability else None,
            smooth=lambda grad: smoothed(grad, self.kernel),
        )


def smoothed(grad: Tensor, kernel: int) -> Tensor:
    """``grad`` (R, C, H, W) convolved with a Gaussian of side ``kernel``, zeros beyond its rim.

    Axis by axis and weight by weight: a convolution routine may sum in another order in another batch.
    """
    half = kernel // 2
    weights = [math.exp(-4.5 * ((i - half) / max(1, half)) ** 2) for i in range(kernel)]
    for dim, pads in ((2, (0, 0, half, half)), (3, (half, half))):
        padded, length = F.pad(grad, pads), grad.shape[dim]
        grad = grad * 0
        for i, weight in enumerate(weights):
            grad = grad + padded.narrow(dim, i, length) * (weight / sum(weights))
    return grad
