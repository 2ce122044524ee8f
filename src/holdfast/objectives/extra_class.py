"""Extra class: adversarial points have a class of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadModel
from holdfast.foundation.registry import register
from holdfast.losses import margin, true_logit
from holdfast.objectives import options
from holdfast.objectives.inner import Pairs, check, moved
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class ExtraClass(Objective):
    """Cross-entropy on clean images to their labels, and on adversarial points to one class more, the net's last output.

    Source: Grosse et al., "On the (statistical) detection of adversarial examples" (2017). The attack sees the
    other outputs alone: it looks for a wrong class and knows nothing of the detection.
    Departure: the points are made anew against the net as it stands (there once, against a net without the class). Both
    kinds go through the net in one batch: batch norm must not tell one from the other.

    What such a net detects of an attack that does not know of the class says nothing. Carlini and Wagner, "Adversarial
    examples are not easily detected" (AISec 2017), broke it by climbing ``max_{k != y} z_k - max(z_y, z_last)``: see
    `undetected`, which a search takes as its loss (`holdfast.objectives.inner.search`, ``rises=undetected``). Report the
    accuracy under that search, and the clean images that raise a false alarm.

    Args:
        attack: the inner maximisation.
        weight: of the adversarial points' term.
        climbs: what the attack climbs: ``own``, its own loss, or ``kl``, the divergence from the clean prediction.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)
    outputs: ClassVar[int] = 1

    attack: Attack
    weight: float = 1.0
    climbs: str = "own"

    def __post_init__(self) -> None:
        options.weight("weight", self.weight)
        check(self.climbs, self.attack)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Pairs:
        largest = int(batch.y.max())

        def real(images: Tensor) -> Tensor:
            logits = model(images)
            if logits.shape[1] < largest + 2:
                raise BadModel(
                    f"the model has {logits.shape[1]} outputs, and a label is {largest}; the last output is the extra class",
                    hint=f"build the net for {largest + 2} classes or more: one more than the data has",
                )
            return logits[:, :-1]

        return Pairs(batch.x, moved(self.attack, real, batch, threat, self.climbs), batch.y)

    def terms(self, model: nn.Module, prepared: Pairs) -> Terms:
        clean, moved = model(torch.cat([prepared.x, prepared.moved])).chunk(2)
        last = clean.shape[1] - 1
        right = F.cross_entropy(clean, prepared.y)
        told = F.cross_entropy(moved, torch.full_like(prepared.y, last))
        alarms, found = ((each.detach().argmax(1) == last).to(right.dtype).mean() for each in (clean, moved))
        parts = {"clean": right.detach(), "detection": told.detach(), "false_alarms": alarms, "detected": found}
        return Terms(right + self.weight * told, parts)


def undetected(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``z_t - max(z_y, z_last)``, (N,), t the target or the best wrong class but the last: positive where a wrong class
    wins and no alarm is raised (the adaptive margin, after Carlini and Wagner 2017)."""
    real = logits[:, :-1]
    true = true_logit(real, y)
    return margin(real, y, target) + true - torch.maximum(true, logits[:, -1])
