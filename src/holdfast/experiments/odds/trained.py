"""What trained classifiers reach: linear ones and nets below the frontier, and linear ones on few samples."""

from __future__ import annotations

import numpy as np

from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.odds import nets
from holdfast.experiments.odds.draw import Dot, lines_and_dots
from holdfast.experiments.odds.settings import Odds, Part
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent, seeds
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes import odds_linear
from holdfast.probes.odds import accuracy, bound, most_accurate, traded
from holdfast.probes.odds_drawn import Shifted, right, sample, scoring, shifted, worst
from holdfast.report.charts import PERCENT

LINEAR, NET = "linear", "net"
BOUND, FRONTIER = "bound of theorem 2.1", "frontier"


def frontier(asked: Odds) -> Part:
    """Linear classifiers and nets, trained both ways, below the bound of theorem 2.1 and the exact frontier at 2 eta."""
    population = asked.population
    eps, learned = 2 * population.eta, sample(population, asked.rows, asked.seed)
    judges = sample(population, asked.judged, asked.seed + 1)
    moved = judges.x.clone()
    moved[:, 1:] -= eps * judges.y[:, None]
    found: dict[tuple[str, float], tuple[Shifted, Interval]] = {}
    for ratio in asked.trained:
        radius = ratio * population.eta
        line = odds_linear.fit(odds_linear.linf(learned.x.numpy(), learned.y.numpy(), radius), bias=False)
        score = scoring(line)
        kept = right(score, worst(line, judges, eps), judges.y)
        found[LINEAR, ratio] = shifted(population, score, seed=asked.seed + 2), _share(kept)
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
        found[NET, ratio] = shifted(population, score, seed=asked.seed + 2), _share(kept)
    rows: list[tuple[Cell, ...]] = []
    dots, breaches = [], []
    for (kind, ratio), (check, robust) in found.items():
        rows.append(
            (kind, ratio, check.standard, robust, check.robust, 100 * check.bound, 100 * check.ceiling, check.apart)
        )
        dots.append(Dot(kind, check.standard, robust))
        name = f"the {kind} classifier trained at {ratio:.4g} eta"
        if check.above > 3 or robust.low > bound(population, check.standard.low):
            breaches.append(f"{name} lies above the bound of theorem 2.1 by {check.above:.1f} standard errors")
        if abs(check.apart) > 3:
            breaches.append(
                f"{name}: its accuracy on the shifted rows is {check.apart:+.1f} standard errors from implied"
            )
    ends = [
        np.inf if abs(t) > 8 + population.m else t for t in np.linspace(most_accurate(population), population.m + 4, 60)
    ]
    points = [traded(population, float(t)) for t in ends]
    shares = np.linspace(min(population.p, *(check.standard.low for check, _ in found.values())), 1, 60)
    curves = {
        BOUND: [(float(share), min(population.p, bound(population, float(share)))) for share in shares],
        FRONTIER: [(point.standard, point.robust) for point in points],
    }
    near = max((each for each in found), key=lambda each: found[each][1].value)
    first, last = asked.trained[0], asked.trained[-1]
    under = len(found) - sum("above the bound" in each for each in breaches)
    told = "; ".join(
        f"{kind} trained at {ratio:.4g} eta {percent(found[kind, ratio][0].standard.value)} standard and "
        f"{percent(found[kind, ratio][1].value)} robust"
        for kind in (LINEAR, NET)
        for ratio in (first, last)
    )
    return Part(
        "frontier",
        Outcome(
            caption=f"d = {population.d}, p = {population.p:g}, eta = {population.eta:.4g}, seed {asked.seed}; trained on "
            f"{asked.rows:,} rows. Standard accuracy on 20,000 rows, x1 right and wrong on each; robust at Linf 2 eta on "
            f"{asked.judged:,}: of linear classifiers exact, of nets what PGD-20 and the shift of theorem 2.1 leave, an upper "
            "bound; shifted: the accuracy after that shift alone; apart: how many standard errors it lies above what the "
            "unshifted rows imply. 95 % Wilson intervals.",
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
            rows=tuple(rows),
            chart=figure(
                lines_and_dots(
                    "what training reaches at Linf 2 eta",
                    curves,
                    dots,
                    x="standard accuracy",
                    y="robust accuracy",
                    names=(BOUND, FRONTIER, LINEAR, NET),
                    labels=PERCENT,
                    width=480,
                )
            ),
            verdict=Verdict(
                not breaches and found[NET, first][1].high < found[NET, last][1].low,
                f"{under} of {len(found)} trained classifiers lie below the bound; {told}; the most robust, {near[0]} trained at "
                f"{near[1]:.4g} eta, has {percent(found[near][1].value)}, where the bound is "
                f"{percent(found[near][0].bound)}",
            ),
        ),
        tuple(breaches),
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
            lines_ = []
            for number in range(asked.num_seeds):
                rows = sample(population, n, asked.seed, first=number * max(asked.samples))
                reach = odds_linear.linf(rows.x.numpy(), rows.y.numpy(), ratio * population.eta)
                lines_.append(odds_linear.fit(reach, bias=False))
            standard[ratio, n] = seeds([accuracy(population, each) for each in lines_])
            robust[ratio, n] = seeds([accuracy(population, each, eps) for each in lines_])
    few, many = asked.samples[0], asked.samples[-1]
    panels = [
        Panel(title, [Point(f"trained at {ratio:g} eta", n, found[ratio, n]) for ratio, n in found])
        for title, found in (("standard", standard), ("robust at 2 eta", robust))
    ]
    return Part(
        "samples",
        Outcome(
            caption=f"Linear classifiers by exact adversarial logistic regression, {asked.num_seeds} draws of the rows each; "
            "their accuracies are exact, the intervals Student's over the draws, 95 %.",
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


def _share(kept) -> Interval:
    return wilson(int(kept.sum()), len(kept))
