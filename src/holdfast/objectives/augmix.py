"""AugMix: the same prediction for an image and two augmentations of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.imaging.augmix import OPERATIONS, augmix
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


class Views(NamedTuple):
    """Images and two augmentations of each, ``x`` (3 N, C, H, W) one kind after the other; the labels ``y`` (N,) int64."""

    x: Tensor
    y: Tensor


@register
@dataclass(frozen=True)
class AugMix(Objective):
    """Cross-entropy on clean images, and the Jensen-Shannon divergence between them and two augmentations of each.

    Source: Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty" (ICLR
    2020), equation 1; the three views go through the model in one batch, as in the authors' code. The threat plays no
    part.
    Departure: the divergence is computed on logarithms, so that nothing needs to be clamped.

    Args:
        severity: of the operations, above 0.1 and up to 10; the authors take 3 on CIFAR and 1 on ImageNet.
        width: how many chains of operations are mixed.
        weight: of the divergence.
    """

    operations: ClassVar[tuple[str, ...]] = OPERATIONS

    severity: float = 3
    width: int = 3
    weight: float = 12.0

    def __post_init__(self) -> None:
        if not 0.1 < self.severity <= 10:
            raise BadValue(
                f"severity is {self.severity}; it is above 0.1 and at most 10", hint="for example severity=3"
            )
        if self.width < 1:
            raise BadValue(f"width is {self.width}; at least one chain is needed", hint="for example width=3")
        if not 0 <= self.weight < math.inf:
            raise BadValue(f"weight is {self.weight}; it must not be negative", hint="for example weight=12")

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Views:
        views = [
            augmix(batch.x, keys.fold(batch.key, number), severity=self.severity, width=self.width) for number in (0, 1)
        ]
        return Views(torch.cat([batch.x, *views]), batch.y)

    def terms(self, model: nn.Module, prepared: Views) -> Terms:
        logits = model(prepared.x).chunk(3)
        clean, divergence = F.cross_entropy(logits[0], prepared.y), jensen_shannon(logits).mean()
        loss = clean + self.weight * divergence
        return Terms(loss, {"clean": clean.detach(), "divergence": divergence.detach()})


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """(N,): the mean Kullback-Leibler divergence of several predictions (N,K) from their mean."""
    logarithms = torch.stack([each.log_softmax(1) for each in logits])
    mixture = logarithms.logsumexp(0) - math.log(len(logits))
    return (logarithms.exp() * (logarithms - mixture)).sum(2).mean(0)
