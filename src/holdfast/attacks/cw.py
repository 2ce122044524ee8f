"""CW: Adam on the distance plus a weighted margin, with a search for the weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.adam import adam
from holdfast.ascent.attack import Attack
from holdfast.ascent.constant import Weighed, advanced, recorded
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.nearing import waning
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one, positive
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

SHRINK = 0.9  # the paper's factor of tau
CLOSE = 1e-3  # the share of the distance to which tau is searched for


@dataclass(frozen=True)
class Descent(Weighed):
    """Where R searches stand.

    Args:
        first, second: Adam's moments, (R, C, H, W).
        tau: the bound on every pixel's change in Linf, (R,).
    """

    first: Tensor
    second: Tensor
    tau: Tensor


@register
@dataclass(frozen=True)
class CW(Attack):
    """Carlini and Wagner: Adam on the squared distance plus a constant times the margin; the constant is searched for.

    Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks" (S&P 2017), sections V and VI, with
    the loss f_6; in Linf section VI-C, with its falling bound tau on every pixel's change.
    Departures: Adam is projected onto the box (section V-B, first way), for with a change of variables pixels that are
    exactly 0 or 1 hardly move; its rate falls within a round. The constant is bracketed from 1, in both directions, and
    bisected in its logarithm. It was large enough if a point fooled in the last tenth of its round, not at any time. A
    round begins at the nearest point so far. In Linf what exceeds tau is cut off where the paper penalises it, which
    leaves nothing for the constant to weigh; where a bound fails, tau goes half-way back.

    Args:
        steps: how many steps of each round. In Linf a round ends with a nearer point, or after a fifth of them.
        rounds: how many rounds. In Linf the rounds take the same number of steps together.
        rate: Adam's first rate in each round; in Linf its rate, in units of tau.
        constant: of the first round, in L2.
        abort: end a round in L2 that has not improved in a tenth of its steps.
    """

    threats = ("linf", "l2")
    goal: ClassVar[str] = "minimal"

    steps: int = 100
    rounds: int = 9
    rate: float = 0.05
    constant: float = 1.0
    abort: bool = True

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("rounds", self.rounds)
        positive("rate", self.rate)
        positive("constant", self.constant)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.rounds * self.steps

    def begin(self, model: Classifier, rows: Rows) -> Descent:
        one, none = rows.x0.new_ones(len(rows)), torch.zeros_like(rows.x0)
        return Descent.opening(rows, self.constant, first=none, second=none, tau=one)

    def step(self, model: Classifier, state: State) -> Descent:
        assert isinstance(state, Descent)
        return (self._penalised if state.rows.threat.name == "l2" else self._bounded)(model, state)

    def _penalised(self, model: Classifier, state: Descent) -> Descent:
        """Evaluates ``x`` and takes one step; where the round ends, goes back to the nearest point."""
        rows, x = state.rows, state.x
        logits, value, grad = evaluate(model, losses.margin, state)
        state = observe_nearest(state, logits, value)
        delta = x - rows.x0
        square = (delta * delta).flatten(1).sum(1)
        state = recorded(state, logits.argmax(1) != rows.y, square.sqrt())
        total = square + state.constant * (-value).clamp_min(0)
        downhill = 2 * delta - per_row(state.constant * (value < 0), x) * grad
        step, first, second = adam(state.first, state.second, downhill, state.tick, self.steps)
        length = waning(state.tick, self.steps, self.rate, 0.0, x)
        moved = (x - per_row(length, x) * step).clamp(0, 1)
        state, ended = advanced(state, total, self.steps, abort=self.abort)
        start = per_row(ended, x)
        return dataclasses.replace(
            state,
            x=torch.where(start, state.nearest, moved),
            first=first.masked_fill(start, 0),
            second=second.masked_fill(start, 0),
            done=state.round >= self.rounds,
        )

    def _bounded(self, model: Classifier, state: Descent) -> Descent:
        """Evaluates ``x``, lowers tau below a new nearest point, and takes one step within tau."""
        rows, x, reach = state.rows, state.x, state.reach
        logits, value, grad = evaluate(model, losses.margin, state)
        state = observe_nearest(state, logits, value)
        state = recorded(state, logits.argmax(1) != rows.y, rows.threat.distance(rows.x0, x))
        nearer = state.reach < reach
        failed = ~nearer & (state.tick >= max(1, self.steps // 5) - 1)
        converged = failed & (state.reach - state.tau <= CLOSE * state.reach)
        back = torch.where(state.reach < torch.inf, (state.tau + state.reach) / 2, state.tau)
        tau = torch.where(nearer, SHRINK * state.reach, torch.where(failed, back, state.tau))
        ended = nearer | failed
        start = per_row(ended, x)
        step, first, second = adam(
            state.first.masked_fill(start, 0),
            state.second.masked_fill(start, 0),
            -grad * per_row(value < 0, x),
            torch.where(ended, 0, state.tick),
            self.steps,
        )
        moved = rows.threat.project(rows.x0, x - per_row(self.rate * tau, x) * step, radius=tau)
        count = state.count + 1
        return dataclasses.replace(
            state,
            x=moved,
            first=first,
            second=second,
            tau=tau,
            tick=torch.where(ended, 0, state.tick + 1),
            count=count,
            done=converged | (count >= self.steps_on(rows.threat)),
        )
