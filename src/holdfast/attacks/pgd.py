"""PGD: projected gradient ascent from random points of the set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent import starts, steps
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.attacks.options import at_least_one, number_of_targets, step_size
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class PGD(SteepestAttack):
    """Projected gradient descent on the negative loss: equal steps from a random point, each one projected.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), section 2.1. For
    ``diversify``, Tashiro, Song and Ermon, "Diversity can be transferred: output diversification for white- and black-box
    attacks" (NeurIPS 2020), section 3.1; for ``targets``, Gowal et al., "An alternative surrogate loss for PGD-based
    adversarial testing" (2019).
    Departures: a sample stops at its first misclassified point, and the best point is kept, not the last.

    Args:
        steps: how many steps of each search.
        restarts: how many searches of each sample (and of each target), from different random points.
        step_size: the length of a step, as a number or as text (``"2/255"``); 2.5 radii over ``steps`` unless given, which
            reaches the rim from any point and can still move along it (Madry et al. 2018, the authors' CIFAR-10 challenge).
        start: where each search begins (see `holdfast.ascent.starts`).
        schedule: how the length of the steps falls (see `holdfast.ascent.steps`).
        loss: what rises (see `holdfast.losses`).
        diversify: how many steps of one radius along a random direction of the logits come first, besides ``steps`` (ODI;
            the paper takes 2).
        targets: 0 for an untargeted search; else the number of target classes, those of the largest clean logits, each
            searched for on its own (the MultiTargeted paper takes all, with ``loss="margin"``).
    """

    steps: int = 40
    restarts: int = 1
    step_size: float | str | None = None
    start: str = "uniform"
    schedule: str = "constant"
    loss: str = "ce"
    diversify: int = 0
    targets: int = 0

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        step_size(self.step_size, 0)
        starts.named(self.start)
        steps.named(self.schedule)
        number_of_targets(self.targets)
        if isinstance(self.diversify, bool) or not isinstance(self.diversify, int) or self.diversify < 0:
            raise BadValue(
                f"diversify is {self.diversify!r}; it must be a whole number, at least 0",
                hint="the paper uses diversify=2",
            )

    def searches(self, ranking: Tensor) -> Tensor:
        if not self.targets:
            return torch.full((len(ranking), self.restarts), -1)
        return ranking[:, : self.targets].repeat(1, self.restarts)

    def rule(self, threat: Threat) -> Steepest:
        return Steepest(
            self.objective,
            steps=self.steps,
            size=step_size(self.step_size, threat.stride(self.steps, 2.5)),
            start=starts.named(self.start),
            schedule=steps.named(self.schedule),
            diversify=self.diversify,
        )
