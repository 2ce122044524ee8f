"""Small data: where adversarial training helps the accuracy on clean images."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.attacks.pgd import PGD
from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.experiment import Experiment, Radius
from holdfast.experiments.lab import Lab, written
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, seeds
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.l2 import L2


@register
@dataclass(frozen=True, kw_only=True)
class SmallData(Experiment):
    """With few images adversarial training helps clean accuracy, with many it costs some.

    Each of the ``num_seeds`` trainings of a cell has a seed of its own, which also draws its images.

    Source: Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), figure 1.

    Args:
        sizes: numbers of training images.
        radii: of training, L2; 0 is standard training, and must be among them.
        num_seeds: trainings for each size and radius, at least 2, from ``seed`` on.
        attack_steps: of the PGD that is trained on.
    """

    published = (
        "Tsipras et al. 2019, figure 1 (curves, no table), L2: with few samples adversarial training has a positive effect "
        "on standard accuracy, most of all on MNIST; it fades with more samples and turns negative",
    )

    sizes: tuple[int, ...] = (100, 1000)
    radii: tuple[Radius, ...] = (0.0, 0.5, 1.5, 2.5)
    num_seeds: int = 3
    attack_steps: int = 5
    steps: int = 300
    test_images: int = 10_000

    def __post_init__(self) -> None:
        if 0.0 not in self.radii or len(self.radii) < 2:
            raise BadValue(
                f"radii is {self.radii}; 0 and another one are needed", hint="for example radii=[0, 1.5, 2.5]"
            )
        if self.num_seeds < 2 or len(self.sizes) < 2:
            raise BadValue(
                f"num_seeds is {self.num_seeds} and there are {len(self.sizes)} sizes; both must be at least 2",
                hint="for example num_seeds=3 and sizes=[100, 1000]",
            )

    def run(self, lab: Lab) -> Outcome:
        inner, judges = Adversarial(PGD(steps=self.attack_steps)), lab.judges(self.test_images, self.seed)
        numbers = range(self.seed, self.seed + self.num_seeds)
        trained = lab.trained(
            [
                self.training(
                    _name(size, eps, seed),
                    inner if eps else Standard(),
                    L2(eps),
                    lab.drawn(size, seed),
                    seed=seed,
                    schedule="constant",
                    watch="warn",
                )
                for size in self.sizes
                for eps in self.radii
                for seed in numbers
            ]
        )
        accuracy = {name: lab.accuracy(each, "last", judges) for name, each in trained.items()}
        found = {
            (size, eps): seeds([accuracy[_name(size, eps, seed)] for seed in numbers])
            for size in self.sizes
            for eps in self.radii
        }
        gain = {
            (size, eps): seeds(
                [accuracy[_name(size, eps, seed)] - accuracy[_name(size, 0.0, seed)] for seed in numbers]
            )
            for size, eps in found
        }
        rows: list[tuple[Cell, ...]] = [
            (size, units.show(eps), found[size, eps], gain[size, eps] if eps else "") for size, eps in found
        ]
        panel = Panel("", [Point(f"eps {units.show(eps)}", size, found[size, eps]) for size, eps in found])
        few, many = min(self.sizes), max(self.sizes)
        largest = max(self.radii)
        return Outcome(
            caption=f"L2, last weights, all accuracies on {len(judges):,} clean test images: the mean of {self.num_seeds} "
            "trainings, each on images of its own, with Student's 95 % interval; the gain is over training eps 0 with the "
            "same seed.",
            columns=tuple(map(Column, ("images", "training eps", "clean", "gain over eps 0"))),
            rows=tuple(rows),
            chart=figure(lines([panel], x="training images", y="clean accuracy", log=True, from_zero=False)),
            verdict=Verdict(
                gain[few, largest].value > 0 > gain[many, largest].value
                and gain[few, largest].low > gain[many, largest].high,
                f"training at eps {units.show(largest)} changes clean accuracy by {_points(gain[few, largest])} with "
                f"{few:,} images, by {_points(gain[many, largest])} with {many:,}",
            ),
        )


def _name(size: int, eps: float, seed: int) -> str:
    return f"{size}-{written(eps)}-{seed}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
