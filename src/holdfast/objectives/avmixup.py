"""AVMixup: points between an image and beyond its adversarial one, with labels that fade on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import check, moved
from holdfast.objectives.mixing import WEIGHT
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


class Faded(NamedTuple):
    """Images ``x`` (N, C, H, W), labels ``y`` (N,) int64, and the weight ``kept`` (N,) of the true class."""

    x: Tensor
    y: Tensor
    kept: Tensor


@register
@dataclass(frozen=True)
class AVMixup(Objective):
    """Cross-entropy at a random point between the image and its adversarial vertex, to the labels mixed likewise.

    Source: Lee, Lee and Yoon, "Adversarial vertex mixup: toward better adversarially robust generalization" (CVPR 2020),
    algorithm 1. The vertex lies ``reach`` perturbations out. Weights are uniform, one for each image.
    Departure: the vertex is clipped to [0, 1].

    Its published robustness was measured before AutoAttack; soft labels shrink logits, so audit it with losses that no
    scale of the logits can saturate.

    Args:
        attack: the inner maximisation; the paper takes 10 steps of 2/255.
        reach: how far out the vertex lies, in perturbations (the paper's gamma).
        kept: the weight of the true class in the image's label (the paper's lambda 1); the others share the rest.
        kept_out: the same in the vertex's label (lambda 2); a tenth is no knowledge at all where there are ten classes.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    reach: float = 2.0
    kept: float = 1.0
    kept_out: float = 0.1
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.weight("reach", self.reach)
        options.share("kept", self.kept)
        options.share("kept_out", self.kept_out)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Faded:
        x = moved(self.attack, model, batch, threat, self.climbs)
        vertex = (batch.x + self.reach * (x - batch.x)).clamp(0, 1)
        share = keys.uniform(keys.fold(batch.key, WEIGHT), (), dtype=batch.x.dtype)
        weight = per_row(share, vertex)
        kept = share * self.kept + (1 - share) * self.kept_out
        return Faded(weight * batch.x + (1 - weight) * vertex, batch.y, kept)

    def terms(self, model: nn.Module, prepared: Faded) -> Terms:
        logits = model(prepared.x)
        loss = F.cross_entropy(logits, _labels(prepared.y, prepared.kept.to(logits.dtype), logits.shape[1]))
        return Terms(loss, {"mixed": loss.detach()})


def _labels(y: Tensor, kept: Tensor, classes: int) -> Tensor:
    """(N, K): ``kept`` (N,) at the true class, the rest in equal parts at the others."""
    rest = (1 - kept) / max(1, classes - 1)
    return torch.scatter(rest[:, None].repeat(1, classes), 1, y[:, None], kept[:, None])
