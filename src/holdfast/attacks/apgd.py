"""APGD: projected gradient ascent that chooses its own step lengths."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent import starts
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, number_of_targets, positive
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.l1 import L1
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

MOMENTUM = 0.75  # the paper's alpha, equation 4: the weight of the new step against the last one
RISING = 0.75  # the paper's rho: the share of steps that must raise the loss between two checkpoints
SHRINK = 1.5  # L1: by how much a step that found nothing sparser shrinks, and the support that the next one may change
SPARSER = 0.95  # L1: below this share of the former support the search starts afresh from its best point
SMALLEST = 10.0  # L1: the smallest step is this part of the first


@dataclass(frozen=True)
class Climb(State):
    """Where R searches stand: one tensor entry per row.

    Args:
        last: the point before ``x``.
        peak, peak_grad, peak_value: the point of the largest loss since the radius last changed, and what is known of it.
        last_value: the loss at ``last``.
        eta: the current step length.
        rises: steps since the last checkpoint that raised the loss.
        since: steps since the last checkpoint; ``window``: how many there are between two checkpoints now.
        check_value: ``peak_value`` at the last checkpoint; ``halved``: whether eta was halved there.
        support: L1 only: how many values the next step may change; ``old_support``: how many the peak had changed.
    """

    last: Tensor
    peak: Tensor
    peak_grad: Tensor
    peak_value: Tensor
    last_value: Tensor
    eta: Tensor
    rises: Tensor
    since: Tensor
    window: Tensor
    check_value: Tensor
    halved: Tensor
    support: Tensor
    old_support: Tensor


class Phase(NamedTuple):
    """A stretch of a search at one radius: its first step, its length in steps, and its radius in eps."""

    first: int
    steps: int
    factor: float


@register
@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD: momentum, and step lengths that are halved whenever the loss stops rising, from the best point so far.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks" (ICML 2020), section 3 and algorithm 1; for L1, "Mind the box: l1-APGD for sparse adversarial attacks against
    image classifiers" (ICML 2021), sections 3 and 4, with the radius falling from 3 eps over 2 eps to eps.
    Departures: a sample stops at its first misclassified point; the projection onto ball and box is exact in L2 too; a
    random start is uniform in the set; the first step is compared with the start's loss; the gradient at the last point,
    which nothing uses, is not computed.

    Args:
        steps: how many steps of each search.
        restarts: how many searches of each sample (and of each target).
        loss: what rises (see `holdfast.losses`).
        targets: 0 for an untargeted search; else the number of target classes, those of the largest clean logits, each
            searched for on its own (the paper's APGD-T: 9 of them and ``loss="targeted_dlr"``).
        start: where each search begins (see `holdfast.ascent.starts`).
        radii: (share of the steps, radius in eps) of each phase; unless given, one phase of radius eps in Linf and L2, and
            3, 2 and 1 eps for 30, 30 and 40 % of the steps in L1. Only points within eps count.
    """

    threats = ("linf", "l2", "l1")

    steps: int = 100
    restarts: int = 1
    loss: str = "ce"
    targets: int = 0
    start: str = "uniform"
    radii: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("restarts", self.restarts)
        starts.named(self.start)
        number_of_targets(self.targets)
        if self.radii is not None:
            object.__setattr__(self, "radii", tuple((float(share), float(factor)) for share, factor in self.radii))
            for share, factor in self.radii or ():
                positive("a share of radii", share)
                positive("a radius of radii", factor)
            if not self.radii or self.radii[-1][1] != 1 or abs(sum(share for share, _ in self.radii) - 1) > 1e-9:
                raise BadValue(
                    f"radii is {self.radii!r}; the shares must add up to 1 and the last radius must be 1",
                    hint="for example radii=((0.3, 3), (0.3, 2), (0.4, 1))",
                )

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def searches(self, ranking: Tensor) -> Tensor:
        if not self.targets:
            return torch.full((len(ranking), self.restarts), -1)
        return ranking[:, : self.targets].repeat(1, self.restarts)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def phases(self, threat: Threat) -> list[Phase]:
        """The stretches of a search on that set; together they have all steps."""
        radii = self.radii or (((0.3, 3.0), (0.3, 2.0), (0.4, 1.0)) if isinstance(threat, L1) else ((1.0, 1.0),))
        found: list[Phase] = []
        first = 0
        for share, factor in radii[:-1]:
            steps = int(share * self.steps)
            found.append(Phase(first, steps, factor))
            first += steps
        found.append(Phase(first, self.steps - first, radii[-1][1]))
        return [phase for phase in found if phase.steps]

    def begin(self, model: Classifier, rows: Rows) -> Climb:
        threat, phase = rows.threat, self.phases(rows.threat)[0]
        radius = phase.factor * threat.eps
        x = starts.named(self.start)(rows)
        if self.start == "uniform" and isinstance(threat, L1):
            # A sparse start, as the authors' code has it: noise far outside, projected onto the first phase's ball.
            noise = keys.normal(rows.key, rows.x0.shape[1:], dtype=x.dtype)
            x = threat.project(rows.x0, rows.x0 + noise, radius=radius)
        elif self.start == "uniform" and phase.factor != 1:
            x = threat.sample(rows.x0, rows.key, radius=radius)
        none = torch.zeros_like(rows.y)
        full = none.to(x.dtype)
        state = Climb.at(
            rows,
            x,
            last=x,
            peak=x,
            peak_grad=torch.zeros_like(x),
            peak_value=full - torch.inf,
            last_value=full + torch.inf,
            eta=full,
            rises=none,
            since=none,
            window=none,
            check_value=full - torch.inf,
            halved=none == 0,
            support=full + 0.2 * x[0].numel(),
            old_support=full + x[0].numel(),
        )
        return dataclasses.replace(
            state, eta=full + self._first_step(rows.threat, phase), window=none + self._window(rows.threat, phase)
        )

    def step(self, model: Classifier, state: State) -> Climb:
        assert isinstance(state, Climb)
        rows, threat = state.rows, state.rows.threat
        phases = self.phases(threat)
        logits, value, grad = evaluate(model, self.objective, state)
        allowed = None
        if len(phases) > 1:
            allowed = threat.distance(rows.x0, state.x) <= threat.eps * (1 + 1e-6)
        state = observe(state, logits, value, allowed=allowed)
        higher = value > state.peak_value
        state = dataclasses.replace(
            state,
            peak=_where(higher, state.x, state.peak),
            peak_grad=_where(higher, grad, state.peak_grad),
            peak_value=torch.where(higher, value, state.peak_value),
            rises=state.rises + (value > state.last_value),
            last_value=value,
        )
        state, grad = self._checkpoint(state, grad, phases)
        radius = self._per_row(state.count, phases, [phase.factor for phase in phases], value) * threat.eps
        moved = self._move(state, grad, radius, phases)
        count = state.count + 1
        state = dataclasses.replace(
            state, x=moved, last=state.x, count=count, since=state.since + 1, done=count >= self.steps
        )
        return self._next_phase(state, phases)

    def _checkpoint(self, state: Climb, grad: Tensor, phases: list[Phase]) -> tuple[Climb, Tensor]:
        """Shortens the steps of rows that are at a checkpoint and do not rise, and takes them back to their peaks."""
        at = state.since == state.window
        if isinstance(state.rows.threat, L1):
            support = (state.peak != state.rows.x0).flatten(1).sum(1).to(state.eta.dtype)
            back = at & (support < SPARSER * state.old_support)
            full = self._per_row(
                state.count, phases, [self._first_step(state.rows.threat, p) for p in phases], state.eta
            )
            shorter = torch.maximum(state.eta / SHRINK, full / SMALLEST)
            eta = torch.where(back, full, torch.where(at, shorter, state.eta))
            state = dataclasses.replace(
                state,
                support=torch.where(at, support / SHRINK, state.support),
                old_support=torch.where(at, support, state.old_support),
            )
        else:
            flat = ~state.halved & (state.check_value >= state.peak_value)
            back = at & ((state.rises <= RISING * state.window) | flat)
            eta = torch.where(back, state.eta / 2, state.eta)
            shrunk = self._per_row(state.count, phases, [max(int(0.03 * p.steps), 1) for p in phases], state.window)
            least = self._per_row(state.count, phases, [max(int(0.06 * p.steps), 1) for p in phases], state.window)
            state = dataclasses.replace(
                state,
                window=torch.where(at, torch.maximum(state.window - shrunk, least), state.window),
                halved=torch.where(at, back, state.halved),
                check_value=torch.where(at, state.peak_value, state.check_value),
            )
        zero = torch.zeros_like(state.rises)
        state = dataclasses.replace(
            state,
            x=_where(back, state.peak, state.x),
            eta=eta,
            rises=torch.where(at, zero, state.rises),
            since=torch.where(at, zero, state.since),
        )
        return state, _where(back, state.peak_grad, grad)

    def _move(self, state: Climb, grad: Tensor, radius: Tensor, phases: list[Phase]) -> Tensor:
        threat, x0, x = state.rows.threat, state.rows.x0, state.x
        eta = per_row(state.eta, x)
        if isinstance(threat, L1):
            return threat.project(x0, x + eta * threat.sparse(grad, state.support), radius=radius)
        ahead = threat.project(x0, x + eta * threat.steepest(grad), radius=radius)
        first = state.count == self._per_row(state.count, phases, [phase.first for phase in phases], state.count)
        weight = per_row(torch.where(first, 1.0, MOMENTUM).to(x.dtype), x)
        return threat.project(x0, x + weight * (ahead - x) + (1 - weight) * (x - state.last), radius=radius)

    def _next_phase(self, state: Climb, phases: list[Phase]) -> Climb:
        """Rows that enter the next phase go on from their peak, projected onto the smaller ball, as a new search."""
        if len(phases) == 1:
            return state
        threat, x0 = state.rows.threat, state.rows.x0
        enters = torch.zeros_like(state.done)
        for phase in phases[1:]:
            enters = enters | (state.count == phase.first)
        if not bool(enters.any()):
            return state
        radius = self._per_row(state.count, phases, [phase.factor for phase in phases], state.eta) * threat.eps
        x = _where(enters, threat.project(x0, state.peak, radius=radius), state.x)
        support = (x != x0).flatten(1).sum(1).to(state.eta.dtype)
        steps = self._per_row(state.count, phases, [self._first_step(threat, p) for p in phases], state.eta)
        window = self._per_row(state.count, phases, [self._window(threat, p) for p in phases], state.window)
        zero = torch.zeros_like(state.rises)
        return dataclasses.replace(
            state,
            x=x,
            last=_where(enters, x, state.last),
            peak_value=torch.where(enters, -torch.inf, state.peak_value),
            last_value=torch.where(enters, torch.inf, state.last_value),
            check_value=torch.where(enters, -torch.inf, state.check_value),
            halved=state.halved | enters,
            eta=torch.where(enters, steps, state.eta),
            window=torch.where(enters, window, state.window),
            rises=torch.where(enters, zero, state.rises),
            since=torch.where(enters, zero, state.since),
            support=torch.where(enters, support / SHRINK, state.support),
            old_support=torch.where(enters, support, state.old_support),
        )

    @staticmethod
    def _first_step(threat: Threat, phase: Phase) -> float:
        return (1.0 if isinstance(threat, L1) else 2.0) * phase.factor * threat.eps

    @staticmethod
    def _window(threat: Threat, phase: Phase) -> int:
        return max(int((0.04 if isinstance(threat, L1) else 0.22) * phase.steps), 1)

    @staticmethod
    def _per_row(count: Tensor, phases: list[Phase], values: list[float] | list[int], like: Tensor) -> Tensor:
        """The entry of ``values``, one per phase, for the phase that each row is in."""
        if len(phases) == 1:
            return torch.full_like(like, values[0])
        edges = torch.tensor([phase.first for phase in phases[1:]], device=count.device)
        return torch.tensor(values, dtype=like.dtype, device=like.device)[torch.bucketize(count, edges, right=True)]


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in these rows, ``old`` in the others."""
    return torch.where(per_row(rows, old), new, old)
