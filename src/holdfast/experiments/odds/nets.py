"""Small nets on the population, trained and attacked by the library itself.

The library's images lie in [0, 1]. A row becomes an image of one line by a linear map that leaves room on both sides, so
that no attack meets the box, and the net begins by undoing it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.attacks.pgd import PGD
from holdfast.experiments import perceptron
from holdfast.probes.odds import Population
from holdfast.probes.odds_drawn import Sample, Score
from holdfast.threats.linf import Linf

FURTHEST = 7.0
"""From their mean no drawn value is further away (`holdfast.keys.box_muller`)."""


@dataclass(frozen=True)
class Frame:
    """The map between rows (n, d + 1) and images (n, 1, 1, d + 1): [-half, half] becomes [0, 1]."""

    half: float

    def image(self, x: Tensor) -> Tensor:
        return (x / (2 * self.half) + 0.5)[:, None, None]

    def radius(self, eps: float) -> float:
        return eps / (2 * self.half)


def frame(population: Population, eps: float) -> Frame:
    """A frame in which attacks of radius ``eps``, at least 2 eta, and the shift of theorem 2.1 stay inside the box."""
    return Frame(FURTHEST + population.eta + max(eps, 2 * population.eta))


def trained(
    population: Population, drawn: Sample, eps: float, *, hidden: int, epochs: int, steps: int, seed: int
) -> tuple[nn.Module, Frame]:
    """A net trained on the rows, standard where eps is 0, else on PGD of so many steps inside Linf."""
    around = frame(population, eps)
    # A radius that grows for most of the training: at 2 eta a net that meets it early ends as a constant.
    net = perceptron.trained(
        around.image(drawn.x),
        (drawn.y > 0).long(),
        around.radius(eps),
        hidden=hidden,
        half=around.half,
        epochs=epochs,
        steps=steps,
        lr=5e-3,
        warm_up=0.7,
        seed=seed,
    )
    return net, around


def scoring(net: nn.Module, around: Frame) -> Score:
    """The net's score of rows: its second logit less its first."""

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = net(around.image(x))
        return logits[:, 1] - logits[:, 0]

    return score


def held(net: nn.Module, around: Frame, drawn: Sample, eps: float, seed: int, *, steps: int = 20) -> Tensor:
    """Whether PGD inside Linf of radius eps leaves each row right, (n,) bool."""
    y = (drawn.y > 0).long()
    found = PGD(steps=steps, loss="margin")(net, around.image(drawn.x), y, threat=Linf(around.radius(eps)), seed=seed)
    return ~found.fooled
