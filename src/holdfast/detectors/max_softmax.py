"""Max softmax: an uncertain answer is suspicious."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class MaxSoftmax:
    """How small the largest probability p is, as the log-odds against it: log((1 - p) / p).

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural
    networks" (ICLR 2017).
    Departure: they take -p, of which this is a rising function: the ROC is the same. In float32 confident images would all
    have p = 1, tie, and leave an attack without a gradient.

    Attacks that go on behind the boundary are answered with confidence: the score is then inverted. It learns nothing from
    the clean images.
    """

    flat: ClassVar[str] = ""

    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        core, _ = prepared(module, x, y)

        def judge(x: Tensor) -> Judged:
            logits = core(x)
            top, place = logits.max(1)
            others = logits.scatter(1, place[:, None], -torch.inf)
            return Judged(logits, others.logsumexp(1) - top)

        return Fixed(judge)
