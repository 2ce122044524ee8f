"""SPSA: Adam steps along gradients estimated from pairs of random signs. Needs scores, no gradients."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from holdfast import keys
from holdfast.ascent.adam import adam
from holdfast.ascent.antithetic import Antithetic, Climber, check_pairs
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class SPSA(Antithetic):
    """Simultaneous perturbation stochastic approximation: Adam along a gradient estimated from pairs of random signs.

    Source: Uesato et al., "Adversarial risk and the dangers of evaluating against weak attacks" (ICML 2018),
    algorithm 1, with Adam; the estimate is Spall's (IEEE Transactions on Automatic Control 1992).
    Departures: the queries are as wide as the set and stay in it (see `holdfast.ascent.antithetic`); the step length
    follows radius and budget; an estimate takes 50 queries, not thousands, so that a budget makes many steps; a search
    stops at its first misclassified query; the set L2.

    Args:
        steps: how many queries of each search.
        samples: how many queries make one estimate, an even number; one more asks for the point itself.
        sigma: the distance of a query in every pixel value, as a number or as text (the paper's delta, 0.01); unless
            given eps / 3 in Linf, and eps / 2 / sqrt(pixels) in L2.
        step_size: Adam's learning rate, as a number or as text; 20 radii over all steps of a search unless given. In L2
            it is the length of a step.
        loss: what rises (see `holdfast.losses`).
    """

    # Not L1: random signs make the estimates of all values nearly equal in size, and its steps need the few largest.
    threats = ("linf", "l2")

    steps: int = 5000
    samples: int = 50
    sigma: float | str | None = None
    step_size: float | str | None = None
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("samples", self.samples)
        check_pairs(self.samples, self.sigma)
        step_size(self.step_size, 0)

    def direction(self, key: Tensor, like: Tensor) -> Tensor:
        return 2 * keys.integers(key, like.shape[1:], 2).to(like.dtype) - 1

    def moved(self, state: Climber) -> Climber:
        threat = state.rows.threat
        # The sum as the mean of (f(x + s d) - f(x - s d)) d / (2 s).
        scale = 2 * self.samples * self.width(state.rows) ** 2
        cycle = (state.count - 1) // (self.samples + 1)
        way, velocity, spread = adam(state.velocity, state.spread, state.grad / (scale or 1.0), cycle, self.cycles + 1)
        way = way if threat.name == "linf" else threat.steepest(way)
        size = step_size(self.step_size, threat.stride(self.cycles, 20.0))
        return dataclasses.replace(state, here=state.here + size * way, velocity=velocity, spread=spread)
