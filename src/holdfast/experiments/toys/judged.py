"""A net on a toy: clean, on the grid, and under attack, and what of it would contradict the mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.attack import Attack, Perturbed
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.experiments import perceptron
from holdfast.experiments.perceptron import Perceptron
from holdfast.experiments.toys.points import Toy
from holdfast.experiments.toys.settings import Toys
from holdfast.experiments.toys.squares import Truth, searched
from holdfast.threats.linf import Linf

HALF, LR, WARM_UP, BATCH = 2.0, 1e-2, 0.5, 64
"""The net stretches the unit square to [-2, 2]; how it is trained."""
STANDARD, ADVERSARIAL = "standard", "adversarial"


@dataclass(frozen=True, eq=False)
class Judged:
    """One net on one toy: n judged points.

    Args:
        training: ``standard`` or ``adversarial``.
        right: whether it is right about the points themselves, (n,) bool.
        truth: what is known about their squares.
        attacks: what was found by each attack.
    """

    toy: Toy
    training: str
    net: Perceptron
    right: Tensor
    truth: Truth
    attacks: Mapping[str, Perturbed]

    def __str__(self) -> str:
        return f"{self.toy.name}, {self.training} training"

    @property
    def fooled(self) -> Tensor:
        """Whether any of the attacks fools it, (n,) bool."""
        return torch.stack([found.fooled for found in self.attacks.values()]).any(0)

    def breaches(self) -> list[str]:
        """What cannot be, in sentences."""
        x, y = torch.from_numpy(self.toy.judged_x), torch.from_numpy(self.toy.judged_y)
        said = []
        for name, found in self.attacks.items():
            point = found.x.flatten(1)
            outside = (point - x).abs().amax(1) > self.toy.eps + 1e-9
            with torch.no_grad():
                wrong = self.net(found.x).argmax(1) != y
            counts = {
                "points of it lie outside their squares": outside,
                "of its verdicts are other ones when the net is asked again": wrong != found.fooled,
                "squares that were proven safe are broken by it": wrong & ~outside & self.truth.proven,
            }
            said += [f"{self}, {name}: {int(which.sum())} {words}" for words, which in counts.items() if which.any()]
        proven = int(self.truth.proven.sum())
        if proven > self.toy.ceiling:
            said.append(f"{self}: {proven} squares are proven safe, where {self.toy.ceiling} is the most there can be")
        return said


def attacks(asked: Toys) -> dict[str, Attack]:
    """The attacks that are held against the grid, by their names."""
    steps = asked.search_steps
    return {
        f"PGD-{steps}": PGD(steps=steps, loss="margin"),
        f"PGD-{steps} x {asked.restarts}": PGD(steps=steps, restarts=asked.restarts, loss="margin"),
        f"APGD-{steps}": APGD(steps=steps, loss="margin"),
    }


def judged(asked: Toys, toy: Toy, training: str) -> Judged:
    """Trains a net on a toy and judges it."""
    net = perceptron.trained(
        torch.from_numpy(toy.x)[:, None, None],
        torch.from_numpy(toy.y),
        toy.eps if training == ADVERSARIAL else 0.0,
        hidden=asked.hidden,
        depth=asked.depth,
        half=HALF,
        epochs=-(-asked.updates // -(-len(toy.x) // BATCH)),
        steps=asked.attack_steps,
        lr=LR,
        warm_up=WARM_UP,
        seed=asked.seed,
    )
    x, y = torch.from_numpy(toy.judged_x), torch.from_numpy(toy.judged_y)
    images = x[:, None, None]
    with torch.no_grad():
        right = net(images).argmax(1) == y
    truth = searched(net, x, y, toy.eps, asked.grid)
    found = {
        name: attack(net, images, y, threat=Linf(toy.eps), seed=asked.seed) for name, attack in attacks(asked).items()
    }
    return Judged(toy, training, net, right, truth, found)
