"""What ``holdfast theory odds`` may be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.experiments.experiment import Radius
from holdfast.experiments.outcome import seeds
from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval
from holdfast.probes.odds import Population

FAR, BREACH = 3.0, 5.0
"""Standard errors: beyond the first a claim does not hold, beyond the second the mathematics is contradicted.

One sound check in 370 is beyond the first by chance, one in two million beyond the second.
"""


@dataclass(frozen=True, kw_only=True)
class Odds:
    """The settings of ``holdfast theory odds``. Ratios are radii in units of eta.

    Args:
        d: weak features; ``p``: how often x_1 is right; ``eta``: the mean of the weak features, 4 / sqrt(d) unless given.
        ratios: of the radii at which accuracies are compared; ``l2``: L2 radii likewise.
        n: rows of the Monte Carlo.
        machines: ratios of the radii at which the support vector machine is trained.
        trained: those at which linear classifiers and nets are; ``rows``: on so many rows; ``hidden``: units of the net;
            ``epochs`` of its training, ``attack_steps`` of the PGD that it is trained on; ``judged``: rows that PGD then
            attacks.
        checked: rows on which theorem 2.1 is checked by the shift.
        samples: numbers of training rows; ``num_seeds``: trainings for each, at least 2.
        classes: names of the two classes of images that are told apart; ``images``: at most so many to train on;
            ``decay``: of the weights of all linear classifiers, above 0.
        radii: at which linear classifiers of images are trained; ``judged_at``: the radius of their robust accuracy.
        thresholds: of the pixels' correlation with the class, for standard training on the others alone.
        sizes: numbers of training images; ``sizes_radii``: radii of training for each.
        seed: of every draw.

    Raises:
        BadValue: 2 eta is not below 1, or a list that is too short.
    """

    d: int = 100
    p: float = 0.95
    eta: float | None = None
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0)
    l2: tuple[Radius, ...] = (0.25, 0.5, 0.8, 1.0, 2.0, 4.0)
    n: int = 50_000
    machines: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0, 1.25, 1.5, 2.0)
    trained: tuple[float, ...] = (0.0, 0.9, 1.0, 2.0)
    rows: int = 5000
    hidden: int = 64
    epochs: int = 6
    attack_steps: int = 3
    judged: int = 2000
    checked: int = 20_000
    samples: tuple[int, ...] = (50, 200, 1000, 5000)
    num_seeds: int = 5
    classes: tuple[str, str] = ("5", "7")
    images: int = 2000
    decay: float = 1e-4
    radii: tuple[Radius, ...] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
    judged_at: Radius = 0.15
    thresholds: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    sizes: tuple[int, ...] = (20, 50, 200)
    sizes_radii: tuple[Radius, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 * self.population.eta < 1:
            raise BadValue(
                f"eta is {self.population.eta:.4g}; 2 eta must be below 1, or the theorems' adversary moves x_1, too",
                hint="give d above 64, where eta = 4 / sqrt(d), or a smaller eta",
            )
        for name, least in (
            ("num_seeds", 2),
            ("n", 100),
            ("rows", 50),
            ("judged", 50),
            ("checked", 50),
            ("epochs", 1),
            ("hidden", 1),
        ):
            if getattr(self, name) < least:
                raise BadValue(
                    f"{name} is {getattr(self, name)}; at least {least} is needed", hint=f"give {name}={least} or more"
                )
        if not self.decay > 0:
            raise BadValue(f"decay is {self.decay}; it must be above 0", hint="give decay=1e-6 for next to none")
        for name in ("ratios", "l2", "machines", "trained", "samples", "radii", "thresholds", "sizes", "sizes_radii"):
            values = getattr(self, name)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < 0:
                raise BadValue(f"{name} is {values}", hint="give at least two numbers from 0 on, each above the last")
        if not self.ratios[-1] * self.population.eta < 1:
            raise BadValue(
                f"ratios ends at {self.ratios[-1]}, where eps is {self.ratios[-1] * self.population.eta:.4g}",
                hint="stay below eps = 1, where x_1 falls as well",
            )
        for name in ("machines", "trained", "radii", "sizes_radii"):
            if getattr(self, name)[0]:
                raise BadValue(
                    f"{name} begins at {getattr(self, name)[0]}", hint="begin at 0, which is standard training"
                )

    @property
    def population(self) -> Population:
        """The population itself."""
        return Population(self.d, self.p, 4 / math.sqrt(max(1, self.d)) if self.eta is None else self.eta)

    @property
    def stated(self) -> str:
        """The population and the seed, in words."""
        found = self.population
        return f"d = {found.d}, p = {found.p:g}, eta = {found.eta:.4g} (m = {found.m:.4g}), seed {self.seed}"


def drawn(shares: Sequence[float]) -> Interval:
    """The mean over draws with Student's interval, cut to what a share can be."""
    found = seeds(shares)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def hundredths(share: float) -> str:
    """A share in words, to a hundredth of a percent."""
    return f"{100 * share:.2f} %"
