"""L-BFGS: the box-constrained trade-off between distance and loss, and a search for the weight between the two."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.attacks.options import at_least_one, number_of_targets
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

TINY = 1e-12
BEYOND = 4.0  # how much larger the first c is than the one that reaches the linearised boundary
WIDER = 4.0  # the factor of c while only one side of its bracket is known
ARMIJO = 1e-4  # the share of the promised decrease that a step must bring
SLACK = (
    0.02  # how far the objective may rise all the same: asked to fall, it sticks at the first kink of a ReLU network
)
FLAT = 1e-4  # a decrease below this share of the objective ends the minimisation at this c


def preference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``log(p_t / (p_t + p_y))``, t the target or the best wrong class: smooth in the margin, and never above 0."""
    return F.logsigmoid(losses.margin(logits, y, target))


@dataclass(frozen=True)
class Descent(State):
    """Where R minimisations of ``|x - x0|^2 / 2 + c loss(x)`` stand.

    Args:
        base: the last accepted point, (R, C, H, W).
        loss: the loss there, (R,).
        slope: the loss's gradient there, (R, C, H, W).
        near: the nearest point that fooled, at any distance, (R, C, H, W).
        near_loss: the loss there, (R,).
        near_slope: the loss's gradient there, (R, C, H, W).
        reach: the squared distance of that point, (R,); inf while there is none.
        moves: the last accepted moves, (R, m, D), the newest last; zero where there are fewer.
        bends: the change of the loss's gradient along each, (R, m, D).
        ahead: the direction of the line search, (R, C, H, W).
        length: its step, as a share of ``ahead``, (R,).
        c: the weight of the loss, (R,).
        low: the largest c that is known to be too small, (R,); 0 while none is.
        high: the smallest c at which a point fooled, (R,); inf while none did.
        hit: whether a point fooled at this c, (R,) bool.
        spent: evaluations at this c, (R,) int64.
        tried: values of c that are done with, (R,) int64.
    """

    base: Tensor
    loss: Tensor
    slope: Tensor
    near: Tensor
    near_loss: Tensor
    near_slope: Tensor
    reach: Tensor
    moves: Tensor
    bends: Tensor
    ahead: Tensor
    length: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    hit: Tensor
    spent: Tensor
    tried: Tensor


@register
@dataclass(frozen=True)
class LBFGS(Attack):
    """Box-constrained L-BFGS on c times the loss plus the squared distance, with a search for c.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 4.1; the two loops of Nocedal,
    "Updating quasi-Newton matrices with limited storage" (1980); the active set of Bertsekas, "Projected Newton methods for
    optimization problems with simple constraints" (1982).
    Departures: c weighs the loss, not the distance, and the distance is squared, which passes through the same points; the
    loss is the cross-entropy between two classes only, the wanted and the true one; the first c reaches beyond the
    linearised boundary, later ones bisect its logarithm, each from the nearest point that fooled so far; the curvature of
    the distance is known, only that of the loss is estimated; the objective may rise a little in a step.

    Args:
        steps: how many evaluations at one c, at most; a minimisation that has become flat ends before.
        weights: how many values of c.
        memory: how many moves the curvature is estimated from (Nocedal's m).
        targets: 0 for any wrong class; else the number of target classes, those of the largest clean logits, each searched
            for on its own.
    """

    threats = ("l2",)
    goal: ClassVar[str] = "minimal"

    steps: int = 50
    weights: int = 20
    memory: int = 10
    targets: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "weights", "memory"):
            at_least_one(name, getattr(self, name))
        number_of_targets(self.targets)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def searches(self, ranking: Tensor) -> Tensor:
        return ranking[:, : self.targets] if self.targets else torch.full((len(ranking), 1), -1)

    def steps_on(self, threat: Threat) -> int:
        return self.steps * self.weights

    def begin(self, model: Classifier, rows: Rows) -> State:
        image, number = torch.zeros_like(rows.x0), torch.full_like(rows.y, 0, dtype=rows.x0.dtype)
        history = image.flatten(1)[:, None].repeat(1, self.memory, 1)
        return Descent.at(
            rows,
            rows.x0,
            base=rows.x0,
            loss=number,
            slope=image,
            near=rows.x0,
            near_loss=number,
            near_slope=image,
            reach=number + torch.inf,
            moves=history,
            bends=history,
            ahead=image,
            length=number,
            c=number,
            low=number,
            high=number + torch.inf,
            hit=torch.zeros_like(rows.y, dtype=torch.bool),
            spent=torch.zeros_like(rows.y),
            tried=torch.zeros_like(rows.y),
        )

    def step(self, model: Classifier, state: State) -> State:
        """Evaluates ``x``; accepts it or shortens the step, and turns to the next c where this one is done with."""
        assert isinstance(state, Descent)
        rows, x0, first = state.rows, state.rows.x0, state.count == 0
        logits, value, grad = evaluate(model, preference, state)
        margin = losses.margin(logits, rows.y, rows.target)
        state = observe_nearest(state, logits, margin)
        loss, slope = -value, -grad
        # At its minimum |x - x0| is c times the loss's steepness. The linearised margin is 0 there at c = -2 margin over its
        # squared steepness: on the boundary the loss is half as steep as the margin, and sigmoid(-margin) as steep here.
        steepness = _dot(slope, slope) / margin.neg().sigmoid().square()
        c = torch.where(first, BEYOND * -2 * margin / steepness.clamp_min(TINY), state.c).clamp(TINY, 1 / TINY)
        move, before, after = state.x - state.base, state.base - x0, state.x - x0
        new, old = _dot(after, after) / 2 + c * loss, _dot(before, before) / 2 + c * state.loss
        promised = _dot(before + per_row(c, before) * state.slope, move)
        accepted = first | (new <= old * (1 + SLACK) + ARMIJO * promised)
        kept = (accepted & ~first)[:, None, None]
        fools = logits.argmax(1) != rows.y
        nearer = fools & (_dot(after, after) < state.reach)
        state = dataclasses.replace(
            state,
            base=_where(accepted, state.x, state.base),
            loss=torch.where(accepted, loss, state.loss),
            slope=_where(accepted, slope, state.slope),
            near=_where(nearer, state.x, state.near),
            near_loss=torch.where(nearer, loss, state.near_loss),
            near_slope=_where(nearer, slope, state.near_slope),
            reach=torch.where(nearer, _dot(after, after), state.reach),
            moves=torch.where(kept, _pushed(state.moves, move), state.moves),
            bends=torch.where(kept, _pushed(state.bends, slope - state.slope), state.bends),
            c=c,
            hit=state.hit | fools,
            spent=state.spent + 1,
            count=state.count + 1,
        )
        flat = torch.where(accepted, ~first & (old - new <= FLAT * old), promised.abs() <= FLAT * old)
        ended = flat | (state.spent >= self.steps)
        state = self._next_weight(state, ended)
        # The minimum of the parabola through both ends of the refused step and the slope at its beginning.
        share = (-promised / (2 * (new - old - promised)).clamp_min(TINY)).clamp(0.1, 0.5)
        ahead = _where(accepted | ended, _newton(state), state.ahead)
        length = torch.where(accepted | ended, 1.0, state.length * share)
        x = (state.base + per_row(length, ahead) * ahead).clamp(0, 1)
        return dataclasses.replace(state, x=x, ahead=ahead, length=length, done=state.tried >= self.weights)

    @staticmethod
    def _next_weight(state: Descent, ended: Tensor) -> Descent:
        """The rows whose minimisation has ended, at their next c and at the nearest point that fooled, if one did."""
        low = torch.where(ended & ~state.hit, state.c, state.low)
        high = torch.where(ended & state.hit, state.c, state.high)
        outside = torch.where(state.hit, state.c / WIDER, state.c * WIDER)
        c = torch.where((low > 0) & torch.isfinite(high), (low * high).sqrt(), outside)
        back = ended & torch.isfinite(state.reach)
        return dataclasses.replace(
            state,
            base=_where(back, state.near, state.base),
            loss=torch.where(back, state.near_loss, state.loss),
            slope=_where(back, state.near_slope, state.slope),
            low=low,
            high=high,
            c=torch.where(ended, c.clamp(TINY, 1 / TINY), state.c),
            hit=state.hit & ~ended,
            spent=torch.where(ended, 0, state.spent),
            tried=state.tried + ended,
        )


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in these rows, ``old`` in the others."""
    return torch.where(per_row(rows, old), new, old)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _pushed(history: Tensor, new: Tensor) -> Tensor:
    """The history with its oldest entry dropped and a new one at its end."""
    return torch.cat([history[:, 1:], new.flatten(1)[:, None]], 1)


def _newton(state: Descent) -> Tensor:
    """Minus the gradient times the estimated inverse Hessian, on the pixel values that may move; (R, C, H, W).

    The Hessian is that of the distance, 1, plus c times that of the loss: a history of the loss alone serves every c.
    """
    pull = state.base - state.rows.x0 + per_row(state.c, state.base) * state.slope
    stopped = ((state.base <= 0) & (pull > 0)) | ((state.base >= 1) & (pull < 0))
    free = (~stopped).flatten(1)
    q = pull.flatten(1) * free
    pairs = []
    for i in reversed(range(state.moves.shape[1])):
        s = state.moves[:, i] * free
        y = s + state.c[:, None] * state.bends[:, i] * free
        curvature = (s * y).sum(1)
        useful = curvature > 1e-3 * (s * s).sum(1)
        rho = torch.where(useful, 1 / curvature, 0.0)
        alpha = rho * (s * q).sum(1)
        q = q - alpha[:, None] * y
        pairs.append((s, y, rho, alpha))
    for s, y, rho, alpha in reversed(pairs):
        q = q + (alpha - rho * (y * q).sum(1))[:, None] * s
    ahead = -q.view_as(pull)
    downhill = _dot(ahead, pull) < 0
    return _where(downhill, ahead, -pull * ~stopped)
