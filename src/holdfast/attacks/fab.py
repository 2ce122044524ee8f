"""FAB: the nearest misclassified point, by projections onto the linearised decision boundary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, number_of_targets
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat, room
from holdfast.threats.threat import rows as per_row

BEYOND = 1.05  # the paper's eta: a little further than the boundary
BIAS = 0.1  # the paper's alpha_max: how much the clean image may pull
BACK = 0.9  # the paper's beta: how far a found point is taken back towards the clean image


@register
@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack: steps onto the linearised boundary, biased towards the clean image.

    Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (ICML 2020),
    algorithm 1; the targeted form is that of the authors' AutoAttack.
    Departures: a search ends at its first misclassified point within eps; there is no final search; the projection onto
    boundary and box is solved by Newton's method in Linf and L2, exactly and without sorting.

    Args:
        steps: how many steps of each search.
        targets: 0 for the nearest class at each step; else the number of target classes, those of the largest clean
            logits, each searched for on its own.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        number_of_targets(self.targets)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def searches(self, ranking: Tensor) -> Tensor:
        if not self.targets:
            return torch.full((len(ranking), 1), -1)
        return ranking[:, : self.targets]

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> State:
        return State.at(rows, rows.x0)

    def step(self, model: Classifier, state: State) -> State:
        """Evaluates ``x``; steps back from a point that fools, and onto the boundary from one that does not."""
        rows, threat = state.rows, state.rows.threat
        logits, value, grad = evaluate(model, losses.margin, state)
        distance = threat.distance(rows.x0, state.x)
        fools = logits.argmax(1) != rows.y
        state = observe(state, logits, value, allowed=distance <= threat.eps * (1 + 1e-6))
        # The boundary near x: {z: value + grad . (z - x) = 0}.
        offset = -value
        own = _onto(threat, state.x, grad, offset)
        pull = _onto(threat, rows.x0, grad, offset + (grad * (state.x - rows.x0)).flatten(1).sum(1))
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


def _onto(threat: Threat, x: Tensor, grad: Tensor, offset: Tensor) -> Tensor:
    """The shortest change d, in the threat's norm, with ``grad . d = offset`` (R,) and x + d in [0, 1]; (R, C, H, W).

    Where no change reaches it, every pixel goes as far as it can. In Linf every pixel moves by t, in L2 by t times its
    gradient, until it meets the box: what they gain together is concave and piecewise linear in t, so that Newton's method
    from a t that is too small rises to the exact one in finitely many rounds (as in `holdfast.threats.l2`).
    """
    toward = grad * per_row(offset.sign(), grad)
    gain, limit, wanted = grad.flatten(1).abs(), room(x, toward).flatten(1), offset.abs()
    tiny = torch.finfo(x.dtype).tiny
    if threat.name == "l1":
        order = gain.sort(dim=1, descending=True).indices
        ranked, space = gain.gather(1, order), limit.gather(1, order)
        before = (ranked * space).cumsum(1) - ranked * space
        moved = torch.minimum((wanted[:, None] - before).clamp_min(0) / ranked.clamp_min(tiny), space)
        moved = torch.zeros_like(moved).scatter_(1, order, moved)
    else:
        speed = torch.ones_like(gain) if threat.name == "linf" else gain
        t = wanted / (gain * speed).sum(1).clamp_min(tiny)
        while True:
            full = speed * t[:, None] >= limit
            held = (gain * limit * full).sum(1)
            rate = (gain * speed * ~full).sum(1)
            new = torch.where(rate > tiny, (wanted - held).clamp_min(0) / rate.clamp_min(tiny), t)
            if not bool((new > t * (1 + 1e-6)).any()):
                break
            t = torch.maximum(t, new)
        moved = torch.minimum(speed * t[:, None], limit)
    return moved.view_as(x) * toward.sign()
