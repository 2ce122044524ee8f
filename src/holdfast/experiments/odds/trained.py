"""What trained classifiers reach: linear ones and nets below the frontier, and linear ones on few samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.odds import nets
from holdfast.experiments.odds.draw import Dot, lines_and_dots
from holdfast.experiments.odds.settings import BREACH, FAR, Odds, drawn
from holdfast.experiments.outcome import Column, Outcome, Verdict, percent
from holdfast.experiments.theory import Part
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes import odds_linear
from holdfast.probes.odds import Population, accuracy, bound, most_accurate, traded
from holdfast.probes.odds_drawn import Shifted, right, sample, scoring, shifted, worst
from holdfast.report.charts import PERCENT

LINEAR, NET = "linear", "net"
BOUND, FRONTIER = "bound of theorem 2.1", "frontier"


@dataclass(frozen=True)
class _Reached:
    """A classifier of some ``kind``, trained at ``ratio`` times eta: theorem 2.1 on it, and its robust accuracy at 2 eta."""

    kind: str
    ratio: float
    check: Shifted
    robust: Interval

    def __str__(self) -> str:
        return f"{self.kind} trained at {self.ratio:.4g} eta"

    def higher(self, population: Population) -> bool:
        """Whether it lies above the bound of theorem 2.1, beyond what the sample explains."""
        return self.check.above > FAR or self.robust.low > bound(population, self.check.standard.low)


def frontier(asked: Odds) -> Part:
    """Linear classifiers and nets, trained both ways, below the bound of theorem 2.1 and the exact frontier at 2 eta."""
    population = asked.population
    eps, learned = 2 * population.eta, sample(population, asked.rows, asked.seed)
    judges = sample(population, asked.judged, asked.seed + 1)
    moved = judges.x.clone()
    moved[:, 1:] -= eps * judges.y[:, None]
    found: list[_Reached] = []
    for ratio in asked.trained:
        radius = ratio * population.eta
        line = odds_linear.fit(
            odds_linear.linf(learned.x.numpy(), learned.y.numpy(), radius), bias=False, decay=asked.decay
        )
        kept = right(scoring(line), worst(line, judges, eps), judges.y)
        found.append(
            _Reached(
                LINEAR, ratio, shifted(population, scoring(line), n=asked.checked, seed=asked.seed + 2), _share(kept)
            )
        )
        net, around = nets.trained(
            population,
            learned,
            radius,
            hidden=asked.hidden,
            epochs=asked.epochs,
            steps=asked.attack_steps,
            seed=asked.seed,
        )
        score = nets.scoring(net, around)
        kept = nets.held(net, around, judges, eps, asked.seed) & right(score, moved, judges.y)
        found.append(
            _Reached(NET, ratio, shifted(population, score, n=asked.checked, seed=asked.seed + 2), _share(kept))
        )
    higher = [each for each in found if each.higher(population)]
    strange = [each for each in found if abs(each.check.apart) > FAR]
    points = [traded(population, float(t)) for t in np.linspace(most_accurate(population), population.m + 4, 60)]
    shares = np.linspace(min(population.p, *(each.check.standard.low for each in found)), 1, 60)
    curves = {
        FRONTIER: [(point.standard, point.robust) for point in points],
        BOUND: [(float(share), bound(population, float(share))) for share in shares],
    }
    top = max(found, key=lambda each: each.robust.value)
    ends = {kind: [each for each in found if each.kind == kind] for kind in (LINEAR, NET)}
    told = "; ".join(
        f"{each} {percent(each.check.standard.value)} standard and {percent(each.robust.value)} robust"
        for of in ends.values()
        for each in (of[0], of[-1])
    )
    return Part(
        "frontier",
        "Theorem 2.1: no classifier lies above the bound, and PGD training goes from its one end to the other",
        Outcome(
            caption=f"{asked.stated}; trained on {asked.rows:,} rows. "
            f"Standard accuracy on {asked.checked:,} rows, x1 right and wrong on each; robust at Linf 2 eta "
            f"on {asked.judged:,}: of linear classifiers exact, of nets what PGD-20 and the shift of theorem 2.1 leave, an "
            "upper bound; shifted: the accuracy after that shift alone; apart: how many standard errors it lies above what "
            "the unshifted rows imply. 95 % Wilson intervals.",
            columns=(
                Column("classifier"),
                Column("training eps / eta", digits=3),
                Column("standard"),
                Column("robust at 2 eta"),
                Column("shifted"),
                Column("bound", "%", 2),
                Column("frontier", "%", 2),
                Column("apart", digits=2),
            ),
            rows=tuple(
                (
                    each.kind,
                    each.ratio,
                    each.check.standard,
                    each.robust,
                    each.check.robust,
                    100 * each.check.bound,
                    100 * each.check.ceiling,
                    each.check.apart,
                )
                for each in found
            ),
            chart=figure(
                lines_and_dots(
                    "what training reaches at Linf 2 eta",
                    curves,
                    [Dot(each.kind, each.check.standard, each.robust) for each in found],
                    x="standard accuracy",
                    y="robust accuracy",
                    names=(FRONTIER, BOUND, LINEAR, NET),
                    dashed=BOUND,
                    labels=PERCENT,
                    width=480,
                )
            ),
            verdict=Verdict(
                not higher and not strange and ends[NET][0].robust.high < ends[NET][-1].robust.low,
                f"{len(higher)} of {len(found)} trained classifiers lie above the bound of theorem 2.1; of "
                f"{len(found) - len(strange)} the shifted rows are classified as the unshifted ones imply; {told}; the most "
                f"robust, {top}, has {percent(top.robust.value)}, where the bound is {percent(top.check.bound)}",
            ),
        ),
        tuple(
            f"{each}: {each.check.above:.1f} standard errors above the bound of theorem 2.1"
            for each in higher
            if each.check.above > BREACH
        )
        + tuple(
            f"{each}: on the shifted rows {each.check.apart:+.1f} standard errors from what the unshifted ones imply"
            for each in strange
            if abs(each.check.apart) > BREACH
        ),
    )


def samples(asked: Odds) -> Part:
    """Exact adversarial logistic regression on few rows: what a radius of training needs to be as robust as it can be."""
    population = asked.population
    eps = 2 * population.eta
    ratios = (0.0, 1.0, 2.0)
    standard: dict[tuple[float, int], Interval] = {}
    robust: dict[tuple[float, int], Interval] = {}
    for ratio in ratios:
        for n in asked.samples:
            fitted = []
            for number in range(asked.num_seeds):
                rows = sample(population, n, asked.seed, first=number * max(asked.samples))
                reach = odds_linear.linf(rows.x.numpy(), rows.y.numpy(), ratio * population.eta)
                fitted.append(odds_linear.fit(reach, bias=False, decay=asked.decay))
            standard[ratio, n] = drawn([accuracy(population, each) for each in fitted])
            robust[ratio, n] = drawn([accuracy(population, each, eps) for each in fitted])
    few, many = asked.samples[0], asked.samples[-1]
    panels = [
        Panel(title, [Point(f"trained at {ratio:g} eta", n, found[ratio, n]) for ratio, n in found])
        for title, found in (("standard", standard), ("robust at 2 eta", robust))
    ]
    return Part(
        "samples",
        "At a radius of 2 eta few rows suffice, at eta many are needed",
        Outcome(
            caption=f"Linear classifiers by exact adversarial logistic regression, {asked.num_seeds} draws of the rows "
            "each; their accuracies are exact, the intervals Student's over the draws, 95 %.",
            columns=(
                Column("training eps / eta", digits=1),
                Column("rows"),
                Column("standard"),
                Column("robust at 2 eta"),
            ),
            rows=tuple((ratio, n, standard[ratio, n], robust[ratio, n]) for ratio, n in standard),
            chart=figure(lines(panels, x="training rows", y="accuracy", log=True)),
            verdict=Verdict(
                robust[2.0, few].value > robust[1.0, few].value and robust[1.0, many].value > robust[1.0, few].value,
                f"robust accuracy from {few:,} to {many:,} rows: trained at 2 eta {percent(robust[2.0, few].value)} to "
                f"{percent(robust[2.0, many].value)}, at eta {percent(robust[1.0, few].value)} to "
                f"{percent(robust[1.0, many].value)}, at 0 {percent(robust[0.0, few].value)} to "
                f"{percent(robust[0.0, many].value)}",
            ),
        ),
    )


def _share(kept: Tensor) -> Interval:
    return wilson(int(kept.sum()), len(kept))
