"""One perturbation of growing strength: what the noise baselines share."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


class Growing(Attack):
    """An attack that asks for one point a step, each stronger than the last, and ends at the first that fools within eps.

    An attack of this kind has the field `steps`, and says what a `point` of each strength is.
    """

    goal = "minimal"
    needs = "labels"

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many strengths are tried."""

    @abstractmethod
    def point(self, rows: Rows, share: Tensor, key: Tensor) -> Tensor:
        """The points of strength ``share``, (R,) from above 0 to 1; ``key``, (R,), is that of the step."""

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> State:
        state = State.at(rows, rows.x0)
        return dataclasses.replace(state, x=self._next(state))

    def step(self, model: Classifier, state: State) -> State:
        logits = model(state.x)
        state = observe_nearest(state, logits, self.objective(logits, state.rows.y, state.rows.target))
        count = state.count + 1
        state = dataclasses.replace(state, count=count, done=state.fooled | (count >= self.steps))
        return dataclasses.replace(state, x=self._next(state))

    def _next(self, state: State) -> Tensor:
        share = (state.count + 1).clamp_max(self.steps).to(state.x.dtype) / self.steps
        return self.point(state.rows, share, keys.fold(state.rows.key, state.count))


def towards(rows: Rows, end: Tensor, share: Tensor) -> Tensor:
    """The points a share of the way to ``end``, (R, C, H, W) in [0, 1], or to where that way leaves the ball."""
    distance = rows.threat.distance(rows.x0, end).clamp_min(1e-12)
    share = share * (rows.threat.eps / distance).clamp_max(1)
    return rows.x0 + per_row(share, end) * (end - rows.x0)
