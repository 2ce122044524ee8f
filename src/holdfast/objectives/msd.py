"""MSD: adversarial training against several sets at once, with one search that at each step goes where it gains most."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State
from holdfast.foundation.registry import register
from holdfast.losses import ce
from holdfast.objectives import options
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row
from holdfast.threats.union import chosen, parts


@register
@dataclass(frozen=True)
class MSD(Objective):
    """Cross-entropy at the points of multi steepest descent: one search over a union, its next step the best part's.

    Source: Maini, Wong and Kolter, "Adversarial robustness against the union of multiple perturbation models" (ICML 2020),
    algorithm 1: from the clean image, every step tries the steepest step of each part with the projection onto that part,
    and takes the one of the largest loss; as in the authors' code, the point of the largest loss of all is trained on. The
    threat is a `holdfast.threats.union.Union`; any other set is one of a single part.
    Departures: `L1.steepest` moves 1 % of the values where the authors draw 5 to 20; projections are exact in ball and box.

    Args:
        steps: of the search; each costs a forward and a gradient, and a forward for every part.
        alpha: the length of a step, in radii of each part; the authors take about a tenth on CIFAR-10.
        smoothing: of the labels, from 0 to 1: the share of each label that is spread over all classes.
    """

    operations: ClassVar[tuple[str, ...]] = ("adversarial",)

    steps: int = 50
    alpha: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        options.at_least_one("steps", self.steps)
        options.positive("alpha", self.alpha)
        options.share("smoothing", self.smoothing)

    @torch.no_grad()
    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Examples:
        none = torch.full_like(batch.y, -1)
        state = State.at(Rows(batch.x, batch.y, none, batch.key, threat), batch.x)
        for _ in range(self.steps):
            grad = evaluate(model, ce, state).grad
            tried = torch.stack([self._stepped(part, batch.x, state.x, grad) for part in parts(threat)])
            value, which = torch.stack([ce(model(x), batch.y, none) for x in tried]).max(0)
            x, rises = chosen(tried, which), value > state.value
            best = torch.where(per_row(rises, x), x, state.best)
            state = dataclasses.replace(state, x=x, best=best, value=torch.maximum(state.value, value))
        return batch._replace(x=state.best)

    def _stepped(self, part: Threat, clean: Tensor, x: Tensor, grad: Tensor) -> Tensor:
        return part.project(clean, x + part.stride(1, self.alpha) * part.steepest(grad))

    def terms(self, model: nn.Module, prepared: Examples) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y, label_smoothing=self.smoothing)
        return Terms(loss, {"adversarial": loss.detach()})
