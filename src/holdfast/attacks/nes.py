"""NES: projected ascent along gradients estimated from pairs of Gaussian queries. Needs scores, no gradients."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.antithetic import Antithetic, Climber, check_pairs
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import rows as per_row


@register
@dataclass(frozen=True)
class NES(Antithetic):
    """Natural evolution strategies: momentum steps along a gradient estimated from antithetic Gaussian queries.

    Source: Ilyas et al., "Black-box adversarial attacks with limited queries and information" (ICML 2018),
    algorithm 1, with its projected signed steps.
    Departures: an untargeted margin instead of a target's probability; the queries are as wide as the set (see
    `holdfast.ascent.antithetic`); momentum, over estimates that are divided by their mean absolute value (Dong et al.,
    CVPR 2018); a search stops at its first misclassified query; outside Linf a step follows that set's steepest direction.

    Args:
        steps: how many queries of each search.
        samples: how many queries make one estimate, an even number (the paper's n); one more asks for the point itself.
        sigma: the standard deviation of the queries, as a number or as text; unless given eps / 3 in Linf, and
            eps / 2 / sqrt(pixels) in L2 and L1. The paper uses 0.001.
        decay: the decay of the sum of estimates; 0 leaves momentum out.
        step_size: the length of a step, as a number or as text; 5 radii over all steps of a search unless given.
        loss: what rises (see `holdfast.losses`).
    """

    steps: int = 5000
    samples: int = 50
    sigma: float | str | None = None
    decay: float = 0.9
    step_size: float | str | None = None
    loss: str = "margin"

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        at_least_one("samples", self.samples)
        check_pairs(self.samples, self.sigma)
        step_size(self.step_size, 0)
        if not self.decay >= 0:
            raise BadValue(f"decay is {self.decay!r}; it must not be negative", hint="for example decay=0.9")

    def direction(self, key: Tensor, like: Tensor) -> Tensor:
        return keys.normal(key, like.shape[1:], dtype=like.dtype)

    def moved(self, state: Climber) -> Climber:
        threat, grad = state.rows.threat, state.grad
        mean = grad.flatten(1).abs().mean(1).clamp_min(torch.finfo(grad.dtype).tiny)
        velocity = self.decay * state.velocity + grad / per_row(mean, grad)
        size = step_size(self.step_size, threat.stride(self.cycles, 5.0))
        return dataclasses.replace(state, here=state.here + size * threat.steepest(velocity), velocity=velocity)
