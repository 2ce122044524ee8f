"""AVMixup: points between an image and beyond its adversarial one, with labels that fade on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.mixing import WEIGHT
from holdfast.objectives.objective import Examples, Terms
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@register
@dataclass(frozen=True)
class AVMixup:
    """Cross-entropy at a random point between the image and its adversarial vertex, to the labels mixed likewise.

    Source: Lee, Lee and Yoon, "Adversarial vertex mixup: toward better adversarially robust generalization" (CVPR 2020),
    algorithm 1. The vertex lies ``reach`` perturbations out. Weights are uniform, one for each image.
    Departure: the vertex is clipped to [0, 1].

    Its published robustness was measured before AutoAttack; soft labels shrink logits, so audit it with losses that no
    scale of the logits can saturate.

    Args:
        attack: the inner maximisation, of its own loss; the paper takes 10 steps of 2/255.
        reach: how far out the vertex lies, in perturbations (the paper's gamma).
        kept: the weight of the true class in the image's label (the paper's lambda 1); the others share the rest.
        kept_out: the same in the vertex's label (lambda 2); a tenth is no knowledge at all where there are ten classes.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    reach: float = 2.0
    kept: float = 1.0
    kept_out: float = 0.1

    def __post_init__(self) -> None:
        options.weight("reach", self.reach)
        options.share("kept", self.kept)
        options.share("kept_out", self.kept_out)

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        moved = search(self.attack, model, batch, threat)
        vertex = (batch.x + self.reach * (moved - batch.x)).clamp(0, 1)
        share = keys.uniform(keys.fold(batch.key, WEIGHT), (), dtype=batch.x.dtype)
        weight = per_row(share, vertex)
        logits = model(weight * batch.x + (1 - weight) * vertex)
        kept = (share * self.kept + (1 - share) * self.kept_out).to(logits.dtype)
        loss = F.cross_entropy(logits, _labels(batch.y, kept, logits.shape[1]))
        return Terms(loss, {"mixed": loss.detach()})


def _labels(y: Tensor, kept: Tensor, classes: int) -> Tensor:
    """(N, K): ``kept`` (N,) at the true class, the rest in equal parts at the others."""
    rest = (1 - kept) / max(1, classes - 1)
    return torch.scatter(rest[:, None].repeat(1, classes), 1, y[:, None], kept[:, None])
