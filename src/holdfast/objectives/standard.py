"""Standard training: cross-entropy on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast.foundation.registry import register
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class Standard:
    """Cross-entropy on clean images; the threat plays no part."""

    operations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        loss = F.cross_entropy(model(batch.x), batch.y)
        return Terms(loss, {"clean": loss.detach()})
