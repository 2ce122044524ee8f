"""N-FGSM: one step along the gradient from stronger noise, without a projection."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast.ascent.state import Rows
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import positive
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class NFGSM(SteepestAttack):
    """Noise-FGSM: one step of ``alpha`` radii from noise ``noise`` times as wide as the set, not projected.

    Source: de Jorge et al., "Make some noise: reliable and efficient single-step adversarial training" (NeurIPS 2022),
    algorithm 1. Made for training, where the raw point (``State.x``) is what is trained on. As an attack its result is
    projected onto the set like any other.

    Args:
        noise: the width of the noise, in radii (the paper's k).
        alpha: the step's length, in radii.
        loss: what rises (see `holdfast.losses`).
    """

    noise: float = 2.0
    alpha: float = 1.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        positive("noise", self.noise)
        positive("alpha", self.alpha)

    def rule(self, threat: Threat) -> Steepest:
        return Steepest(self.objective, steps=1, size=threat.stride(1, self.alpha), start=self._noisy, project=False)

    def _noisy(self, rows: Rows) -> Tensor:
        return rows.threat.sample(rows.x0, rows.key, radius=self.noise * rows.threat.eps)
