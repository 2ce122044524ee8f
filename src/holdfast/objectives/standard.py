"""Standard training: cross-entropy on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Standard(Objective):
    """Cross-entropy on clean images; the threat plays no part.

    Source: for the smoothing, Szegedy et al., "Rethinking the Inception architecture for computer vision" (CVPR 2016),
    section 7.

    Args:
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
    """

    operations: ClassVar[tuple[str, ...]] = ()

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.share("smoothing", self.smoothing)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Examples:
        return batch

    def terms(self, model: nn.Module, prepared: Examples) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y, label_smoothing=self.smoothing)
        return Terms(loss, {"clean": loss.detach()})
