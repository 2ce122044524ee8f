"""Ascent along gradients that pairs of queries estimate, one query a step: what NES and SPSA share."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Climber(State):
    """Where R searches stand; all tensors are (R, C, H, W) but ``seen``.

    Args:
        here: the point whose gradient is being estimated.
        ahead: the first point of the pair in work.
        seen: the loss there, (R,).
        grad: the pairs' sum so far.
        velocity: the decaying sum of past estimates.
        spread: the decaying mean of their squares.
    """

    here: Tensor
    ahead: Tensor
    seen: Tensor
    grad: Tensor
    velocity: Tensor
    spread: Tensor


class Antithetic(Attack):
    """An attack that asks for the loss at ``x + s d`` and ``x - s d`` in turn and climbs along what the pairs say.

    A cycle is one query of the point itself, then `samples` queries around it, then a step. Every query that lies in the
    set counts as a candidate. In Linf all of them do: there the projection acts value by value and leaves an estimate
    what it is. In L2 and L1 it does not, and the queries around the point only keep to the box.

    An attack of this kind has the fields below, the name of a ``loss``, a `direction` and a step, `moved`.
    """

    threats = ("linf", "l2", "l1")
    needs = "scores"

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many queries a search makes."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many of them make one estimate: even."""

    @property
    @abstractmethod
    def sigma(self) -> float | str | None:
        """The s above, as a number or as text; as wide as the set unless given (see `width`)."""

    @property
    @abstractmethod
    def loss(self) -> str:
        """The name of the loss that rises."""

    @abstractmethod
    def direction(self, key: Tensor, like: Tensor) -> Tensor:
        """One random direction d per key, of the shape and dtype of ``like``, its values of variance 1."""

    @abstractmethod
    def moved(self, state: Climber) -> Climber:
        """The searches after a step from ``here`` along ``grad``; ``here`` need not lie in the set yet."""

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    @property
    def cycles(self) -> int:
        """How many steps the queries are enough for."""
        return max(1, self.steps // (self.samples + 1))

    def width(self, rows: Rows) -> float:
        """The distance s between the point and the queries around it.

        Unless given it follows the set: eps / 3 in Linf, and eps / 2 / sqrt(pixels) in L2 and L1. A model that masks its
        gradients is flat or rough at the published 0.001, and is seen through at the width of the set.
        """
        if self.sigma is not None:
            return units.parse(self.sigma, name="sigma")
        share = 1 / 3 if rows.threat.name == "linf" else 0.5 / math.sqrt(rows.x0[0].numel())
        return min(rows.threat.eps * share, 1 / 3)

    def begin(self, model: Classifier, rows: Rows) -> Climber:
        zero = torch.zeros_like(rows.x0)
        return Climber.at(
            rows, rows.x0, here=rows.x0, ahead=rows.x0, seen=zero[:, 0, 0, 0], grad=zero, velocity=zero, spread=zero
        )

    def step(self, model: Classifier, state: State) -> State:
        assert isinstance(state, Climber)
        rows = state.rows
        logits = model(state.x)
        value = self.objective(logits, rows.y, rows.target)
        allowed = rows.threat.distance(rows.x0, state.x) <= rows.threat.eps * (1 + 1e-6)
        state = observe(state, logits, value, allowed=allowed)
        place = state.count % (self.samples + 1)  # 0 is the point itself; then come the pairs
        first, second = place % 2 == 1, (place > 0) & (place % 2 == 0)
        # The difference of the points themselves, not 2 s d: where the box cuts one off, its weight falls with it.
        rise = torch.where(second, state.seen - value, 0)
        count = state.count + 1
        state = dataclasses.replace(
            state,
            grad=state.grad + per_row(rise, state.x) * (state.ahead - state.x),
            ahead=torch.where(per_row(first, state.x), state.x, state.ahead),
            seen=torch.where(first, value, state.seen),
            count=count,
            done=count >= self.steps,
        )
        due = (place == self.samples) | state.done  # a search that runs out of queries steps along what it has
        if bool(due.any()):
            moved = self.moved(state)
            here = torch.where(per_row(due, state.x), rows.threat.project(rows.x0, moved.here), state.here)
            state = dataclasses.replace(
                state,
                here=here,
                grad=torch.where(per_row(due, here), 0, state.grad),
                velocity=torch.where(per_row(due, here), moved.velocity, state.velocity),
                spread=torch.where(per_row(due, here), moved.spread, state.spread),
            )
        return dataclasses.replace(state, x=torch.where(per_row(due, state.x), state.here, self._around(state)))

    def _around(self, state: Climber) -> Tensor:
        """The next point of a pair: both draw the same direction, and the second goes the other way."""
        rows = state.rows
        number = state.count % (self.samples + 1)
        pair = state.count - number + (number + 1) // 2
        way = self.direction(keys.fold(rows.key, pair), state.here)
        width = self.width(rows)
        sign = torch.where(number % 2 == 1, width, -width).to(state.x.dtype)
        point = state.here + per_row(sign, state.here) * way
        return rows.threat.project(rows.x0, point) if rows.threat.name == "linf" else point.clamp(0, 1)


def check_pairs(samples: int, sigma: float | str | None) -> None:
    """Refuses an odd number of samples and a width that is not positive."""
    if samples % 2:
        raise BadValue(f"samples is {samples!r}; queries come in pairs", hint=f"for example samples={samples + 1}")
    if sigma is not None and not units.parse(sigma, name="sigma") > 0:
        raise BadValue(f"sigma is {sigma!r}; it must be positive", hint='for example sigma="1/255"')
