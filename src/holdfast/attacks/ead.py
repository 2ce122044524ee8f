"""EAD: shrinkage-thresholding on an elastic net of distances plus a weighted margin, with a search for the weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.constant import Weighed, advanced, recorded
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one, positive
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Shrinking(Weighed):
    """Where R searches stand; ``last``, (R, C, H, W), is the shrunken point from which ``x`` was extrapolated."""

    last: Tensor


@register
@dataclass(frozen=True)
class EAD(Attack):
    """Elastic-net attack: accelerated shrinkage on L1 and squared L2 distance plus a constant times the margin.

    Source: Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples" (AAAI 2018),
    algorithm 1 with FISTA (equations 7 to 9); the step falls with the root of the share of steps that are left.
    Departures: of the points that fool the nearest in L1 is kept, and they are the extrapolated ones, where the gradient is
    taken anyway. The constant is bracketed from 1, in both directions, and bisected in its logarithm; it was large enough
    if a point fooled in the last tenth of its round. A round begins at the nearest point so far.

    Args:
        steps: how many steps of each round.
        rounds: how many rounds.
        step_size: the first step along the gradient of the smooth part (the paper's alpha_0).
        beta: the weight of the L1 distance, and the change below which a pixel value goes back to that of the clean image.
        constant: of the first round.
        abort: end a round that has not improved in a tenth of its steps.
    """

    threats = ("l1",)
    goal: ClassVar[str] = "minimal"

    steps: int = 100
    rounds: int = 9
    step_size: float = 0.003
    beta: float = 0.01
    constant: float = 1.0
    abort: bool = True

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("rounds", self.rounds)
        for name in ("step_size", "beta", "constant"):
            positive(name, getattr(self, name))

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.rounds * self.steps

    def begin(self, model: Classifier, rows: Rows) -> Shrinking:
        return Shrinking.opening(rows, self.constant, last=rows.x0)

    def step(self, model: Classifier, state: State) -> Shrinking:
        """Evaluates ``x`` and takes one step; where the round ends, goes back to the nearest point."""
        assert isinstance(state, Shrinking)
        rows, x = state.rows, state.x
        logits, value, grad = evaluate(model, losses.margin, state)
        state = observe_nearest(state, logits, value)
        state = recorded(state, logits.argmax(1) != rows.y, rows.threat.distance(rows.x0, x))
        delta = x - rows.x0
        downhill = 2 * delta - per_row(state.constant * (value < 0), x) * grad
        tick = state.tick.to(x.dtype)
        moved = delta - per_row(self.step_size * (1 - tick / self.steps).sqrt(), x) * downhill
        shrunk = (rows.x0 + (moved - moved.clamp(-self.beta, self.beta))).clamp(0, 1)
        ahead = (shrunk + per_row(tick / (tick + 3), x) * (shrunk - state.last)).clamp(0, 1)
        apart = delta.flatten(1)
        total = apart.square().sum(1) + self.beta * apart.abs().sum(1) + state.constant * (-value).clamp_min(0)
        state, ended = advanced(state, total, self.steps, abort=self.abort)
        start = per_row(ended, x)
        return dataclasses.replace(
            state,
            x=torch.where(start, state.nearest, ahead),
            last=torch.where(start, state.nearest, shrunk),
            done=state.round >= self.rounds,
        )
