"""FAB: the nearest misclassified point, by projections onto the linearised decision boundary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.linearised import onto
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, number_of_targets
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

BEYOND = 1.05  # the paper's eta: a little further than the boundary
BIAS = 0.1  # the paper's alpha_max: how much the clean image may pull
BACK = 0.9  # the paper's beta: how far a found point is taken back towards the clean image
RESTART = 2**32  # a search is told its target and nothing else: the target plus so much for every restart


def aimed(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The margin towards a target that may carry a restart."""
    return losses.margin(logits, y, (target + 1) % RESTART - 1)


@register
@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack: steps onto the linearised boundary, biased towards the clean image.

    Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (ICML 2020),
    algorithm 1; the targeted form is that of the authors' AutoAttack.
    Departures: a search ends at its first misclassified point within eps; there is no final search; the projection onto
    boundary and box is solved by Newton's method in Linf and L2, exactly and without sorting; a restart begins within half
    of eps, where the paper takes half of the best distance so far if that is less: searches know nothing of one another.

    Args:
        steps: how many steps of each search.
        targets: 0 for the nearest class at each step; else the number of target classes, those of the largest clean
            logits, each searched for on its own.
        restarts: how many searches of each target: the first from the clean image, the others from random points.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100
    targets: int = 9
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        number_of_targets(self.targets)

    @property
    def objective(self) -> Loss:
        return aimed

    def searches(self, ranking: Tensor) -> Tensor:
        targets = ranking[:, : self.targets] if self.targets else torch.full((len(ranking), 1), -1)
        return torch.cat([targets + RESTART * restart for restart in range(self.restarts)], 1)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> State:
        if self.restarts == 1:
            return State.at(rows, rows.x0)
        start = rows.threat.sample(rows.x0, rows.key, radius=rows.threat.eps / 2)
        return State.at(rows, torch.where(per_row(rows.target + 1 < RESTART, start), rows.x0, start))

    def step(self, model: Classifier, state: State) -> State:
        """Evaluates ``x``; steps back from a point that fools, and onto the boundary from one that does not."""
        rows, threat = state.rows, state.rows.threat
        logits, value, grad = evaluate(model, aimed, state)
        distance = threat.distance(rows.x0, state.x)
        fools = logits.argmax(1) != rows.y
        state = observe(state, logits, value, allowed=distance <= threat.eps * (1 + 1e-6))
        # The boundary near x: {z: value + grad . (z - x) = 0}.
        offset = -value
        own = onto(threat, state.x, grad, offset)
        pull = onto(threat, rows.x0, grad, offset + (grad * (state.x - rows.x0)).flatten(1).sum(1))
        a, b = (threat.distance(torch.zeros_like(d), d) for d in (own, pull))
        bias = per_row((a / (a + b).clamp_min(1e-12)).clamp(0, BIAS), own)
        ahead = ((1 - bias) * (state.x + BEYOND * own) + bias * (rows.x0 + BEYOND * pull)).clamp(0, 1)
        back = rows.x0 + BACK * (state.x - rows.x0)
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=torch.where(per_row(fools, back), back, ahead),
            count=count,
            done=count >= self.steps,
        )
