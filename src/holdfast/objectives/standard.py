"""Standard training: cross-entropy on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Standard:
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

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        loss = F.cross_entropy(model(batch.x), batch.y, label_smoothing=self.smoothing)
        return Terms(loss, {"clean": loss.detach()})
