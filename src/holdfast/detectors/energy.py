"""Energy: small logits are suspicious."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class Energy:
    """The free energy -T log(sum over k of exp(z_k / T)) of the logits z.

    Source: Liu et al., "Energy-based out-of-distribution detection" (NeurIPS 2020), section 2; the larger, the more
    suspicious. It learns nothing from the clean images.

    Args:
        temperature: T.
    """

    flat: ClassVar[str] = ""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise BadValue(
                f"temperature is {self.temperature}; it must be positive and finite",
                hint="the paper uses temperature=1",
            )

    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        core, _ = prepared(module, x, y)

        def judge(x: Tensor) -> Judged:
            logits = core(x)
            return Judged(logits, -self.temperature * (logits / self.temperature).logsumexp(1))

        return Fixed(judge)
