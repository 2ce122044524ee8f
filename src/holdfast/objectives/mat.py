"""MAT: adversarial training against several sets at once, each with a search of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.inner import search
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat
from holdfast.threats.union import chosen, parts

HOW = ("average", "worst")


@register
@dataclass(frozen=True)
class MAT(Objective):
    """Multi-norm adversarial training: cross-entropy at the points found in every part of a union, or at the worst of them.

    Source: Tramer and Boneh, "Adversarial training and robustness for multiple perturbations" (NeurIPS 2019), section 3:
    its strategies "avg" and "max". The threat is a `holdfast.threats.union.Union`; any other set is one of a single part.
    Departure: with ``average``, the points of all parts go through the net in one batch.

    Args:
        attack: the inner maximisation, run in each part; without a length of its own, its step is that of the part.
        how: ``average``: all points count alike; ``worst``: for each image the point of the largest cross-entropy counts.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Attack
    how: Literal["average", "worst"] = "average"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.share("smoothing", self.smoothing)
        if self.how not in HOW:
            raise BadValue(
                f"how is {self.how!r}; it must be one of {', '.join(HOW)}", hint=f"for example how={HOW[0]!r}"
            )

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Examples:
        draws = [batch._replace(key=keys.fold(batch.key, number)) for number in range(len(parts(threat)))]
        points = [search(self.attack, model, draw, part) for draw, part in zip(draws, parts(threat))]
        if self.how == "average":
            return Examples(torch.cat(points), batch.y.repeat(len(points)), torch.cat([draw.key for draw in draws]))
        with torch.no_grad():
            values = torch.stack([F.cross_entropy(model(x), batch.y, reduction="none") for x in points])
        return batch._replace(x=chosen(torch.stack(points), values.argmax(0)))

    def terms(self, model: nn.Module, prepared: Examples) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y, label_smoothing=self.smoothing)
        return Terms(loss, {"adversarial": loss.detach()})
