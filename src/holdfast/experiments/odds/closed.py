"""What is known without training: accuracies against eps, the best of any classifier, and the support vector machine."""

from __future__ import annotations

import numpy as np

from holdfast.experiments.charts import figure
from holdfast.experiments.odds.draw import Dot, beside, exactly, lines_and_dots
from holdfast.experiments.odds.settings import Odds, Part
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes.odds import (
    Linear,
    accuracy,
    averaging,
    bayes,
    best,
    best_linear,
    first_alone,
    linear,
)
from holdfast.probes.odds_drawn import Sample, errors_apart, right, sample, scoring, voting, worst
from holdfast.probes.odds_svm import Machine, covered, machine

FIRST, AVERAGE, BAYES, MACHINE, TILTED, BEST = "x1 alone", "f_avg", "Bayes", "SVM of 0.9 eta", "tilted", "best of all"
GRID = 120
"""Places at which a curve is drawn."""


def accuracies(asked: Odds) -> Part:
    """Closed forms beside Monte Carlo: linear classifiers against Linf and L2, and the best classifier at each eps."""
    population = asked.population
    drawn = sample(population, asked.n, asked.seed)
    tilted = linear(population, 0.3, 1.0)
    classifiers = {
        FIRST: first_alone(population),
        AVERAGE: averaging(population),
        BAYES: bayes(population),
        MACHINE: machine(population, 0.9 * population.eta).classifier,
        # Unequal weights and a bias: a classifier that no symmetry helps.
        TILTED: Linear(tilted.w * (1 + np.arange(population.d + 1) / population.d), 0.2),
    }
    radii = {"linf": [ratio * population.eta for ratio in asked.ratios], "l2": list(asked.l2)}
    rows: list[tuple[Cell, ...]] = []
    dots: dict[str, list[Dot]] = {norm: [] for norm in radii}
    apart: dict[str, float] = {}

    def compare(name: str, norm: str, eps: float, exact: float, measured: Interval) -> None:
        off = errors_apart(measured, exact)
        rows.append((name, norm, eps, 100 * exact, measured, off))
        dots[norm].append(Dot(name, exactly(eps), measured))
        apart[f"{name}, {norm} {eps:.4g}"] = off

    for norm, each in radii.items():
        for name, classifier in classifiers.items():
            for eps in each:
                x = worst(classifier, drawn, eps, norm)
                compare(
                    name, norm, eps, accuracy(population, classifier, eps, norm), _share(scoring(classifier), x, drawn)
                )
    for eps in radii["linf"]:
        if eps < population.eta:
            t = population.logit / (2 * population.mu(eps))
            x = drawn.x - eps * drawn.y[:, None]
            compare(BEST, "linf", eps, best(population, eps), _share(voting(population, t), x, drawn))
    far = {cell: off for cell, off in apart.items() if abs(off) > 3}
    furthest = max(apart, key=lambda cell: abs(apart[cell]))
    wide = 2 * population.eta
    seen = (
        f"{len(apart) - len(far)} of {len(apart)} closed forms lie within 3 standard errors of the Monte Carlo of "
        f"{asked.n:,} rows, the furthest {abs(apart[furthest]):.1f} away ({furthest}); at the radius 2 eta = {wide:.4g} "
        f"f_avg keeps {_percent(accuracy(population, averaging(population), wide))} against Linf and "
        f"{_percent(accuracy(population, averaging(population), wide, 'l2'))} against L2"
    )
    panels = []
    names = [*classifiers, BEST]
    for norm, each in radii.items():
        grid = np.linspace(0, max(each), GRID)
        if max(each) >= 1:
            grid = np.sort(np.r_[grid, 1 - 1e-9, 1.0])  # where x1 falls
        curves = {
            name: [(float(eps), accuracy(population, classifier, float(eps), norm)) for eps in grid]
            for name, classifier in classifiers.items()
        }
        if norm == "linf":
            curves[BEST] = [(float(eps), best(population, float(eps))) for eps in grid]
        title = f"{norm}: lines theory, dots samples"
        marked = {"eta": population.eta, "2 eta": wide} if norm == "linf" else {}
        panels.append(
            lines_and_dots(
                title, curves, dots[norm], x="eps", y="accuracy" if not panels else "", names=names, marked=marked
            )
        )
    return Part(
        "accuracy",
        Outcome(
            caption=f"{_of(asked)}. Closed forms, and Monte Carlo on {asked.n:,} rows, every one moved to its worst "
            "point, with 95 % Wilson intervals; apart: how many standard errors the Monte Carlo lies above.",
            columns=(
                Column("classifier"),
                Column("norm"),
                Column("eps", digits=4),
                Column("closed form", "%", 2),
                Column("Monte Carlo"),
                Column("apart", digits=2),
            ),
            rows=tuple(rows),
            chart=figure(beside(*panels)),
            verdict=Verdict(not far, seen),
        ),
        tuple(
            f"{cell}: the Monte Carlo lies {off:+.1f} standard errors from the closed form (by chance "
            f"{0.0027 * len(apart):.2f} of {len(apart)} cells are further than 3: try another seed)"
            for cell, off in far.items()
        ),
    )


def bests(asked: Odds) -> Part:
    """The highest accuracy of any classifier at each eps, beside the best linear one, Bayes's and f_avg."""
    population = asked.population
    rows: list[tuple[Cell, ...]] = []
    breaches = []
    values: dict[float, float] = {}
    for ratio in asked.ratios:
        eps = ratio * population.eta
        values[ratio] = best(population, eps)
        others = [
            accuracy(population, classifier, eps)
            for classifier in (best_linear(population, eps), bayes(population), averaging(population))
        ]
        rows.append((ratio, 100 * values[ratio], *(100 * each for each in others)))
        if max(others) > values[ratio] + 1e-9:
            breaches.append(
                f"at eps {ratio:.4g} eta a linear classifier has {_percent(max(others))}, more than the best"
            )
    grid = np.linspace(0, max(asked.ratios), GRID)
    curves = {
        BEST: [(float(at), best(population, float(at) * population.eta)) for at in grid],
        "best linear": [
            (float(at), accuracy(population, best_linear(population, at * population.eta), at * population.eta))
            for at in grid
        ],
        BAYES: [(float(at), accuracy(population, bayes(population), at * population.eta)) for at in grid],
        AVERAGE: [(float(at), accuracy(population, averaging(population), at * population.eta)) for at in grid],
    }
    gain = max(asked.ratios, key=lambda ratio: values[ratio] - _linear(asked, ratio))
    beyond = [ratio for ratio in asked.ratios if ratio >= 1]
    falling = all(values[a] >= values[b] - 1e-12 for a, b in zip(asked.ratios, asked.ratios[1:]))
    left = f"; from eps = eta on exactly p = {_percent(population.p)}" if beyond else ""
    return Part(
        "best",
        Outcome(
            caption=f"{_of(asked)}. Exact accuracies against Linf, nothing sampled.",
            columns=(
                Column("eps / eta", digits=3),
                *(Column(name, "%", 2) for name in ("any classifier", "best linear", "Bayes", "f_avg")),
            ),
            rows=tuple(rows),
            chart=figure(
                lines_and_dots(
                    "the highest accuracy at each radius",
                    curves,
                    [],
                    x="Linf eps / eta",
                    y="accuracy",
                    names=list(curves),
                    width=480,
                )
            ),
            verdict=Verdict(
                not breaches and falling and all(abs(values[ratio] - population.p) < 1e-12 for ratio in beyond),
                f"the best classifier has {_percent(values[asked.ratios[0]])} at eps {asked.ratios[0]:.4g} eta and "
                f"{_percent(values[asked.ratios[-1]])} at {asked.ratios[-1]:.4g} eta; it beats the best linear one by "
                f"{100 * (values[gain] - _linear(asked, gain)):.2f} points at {gain:.4g} eta, the most{left}",
            ),
        ),
        tuple(breaches),
    )


def machines(asked: Odds) -> Part:
    """Theorem 2.2: the angle of the support vector machine against the radius of its training."""
    population = asked.population
    found = [machine(population, ratio * population.eta) for ratio in asked.machines]
    rows: list[tuple[Cell, ...]] = [
        (ratio, each.degrees, 100 * each.odds.standard, 100 * each.odds.robust)
        for ratio, each in zip(asked.machines, found)
    ]
    standard = found[0].odds
    below = [each for ratio, each in zip(asked.machines, found) if ratio < 1]
    beyond = [each for ratio, each in zip(asked.machines, found) if ratio >= 1]
    claims = {
        "standard training": standard.standard > 0.99 and standard.robust < 0.01,
        "adversarial training": all(_is_first(each, population.p) for each in beyond),
    }
    conditions = "satisfies" if covered(population) else "does not satisfy"
    last = below[-1]
    switch = (
        f"; the weak features are gone from {_ratio(beyond[0], asked)} eta on, at {_ratio(last, asked)} eta they still have "
        f"{last.degrees:.2f} degrees and cost {100 * (population.p - last.odds.robust):.1f} points of robust accuracy"
        if beyond and all(each.degrees == 0 for each in beyond)
        else f"; at {_ratio(found[-1], asked)} eta the angle is {found[-1].degrees:.2f} degrees"
    )
    curves = {
        "standard": [(ratio, each.odds.standard) for ratio, each in zip(asked.machines, found)],
        "robust at 2 eta": [(ratio, each.odds.robust) for ratio, each in zip(asked.machines, found)],
        "angle, share of 90 degrees": [(ratio, each.degrees / 90) for ratio, each in zip(asked.machines, found)],
    }
    dots = [Dot(name, exactly(at), exactly(value)) for name, line in curves.items() for at, value in line]
    breaches = (
        []
        if not covered(population)
        else [f"theorem 2.2 fails for {what}" for what, held in claims.items() if not held]
    )
    return Part(
        "svm",
        Outcome(
            caption=f"{_of(asked)}. The unit-norm classifier of the least expected hinge loss at the worst point of Linf; 0 "
            "degrees is x1 alone. Exact accuracies.",
            columns=(
                Column("training eps / eta", digits=3),
                Column("angle", "degrees", 2),
                Column("standard", "%", 2),
                Column("robust at 2 eta", "%", 3),
            ),
            rows=tuple(rows),
            chart=figure(
                lines_and_dots(
                    "the SVM of theorem 2.2",
                    curves,
                    dots,
                    x="training eps / eta",
                    y="accuracy, share of 90 degrees",
                    names=list(curves),
                    marked={"eta": 1.0},
                    width=480,
                )
            ),
            verdict=Verdict(
                all(claims.values()),
                f"trained at eps 0 the machine stands at {found[0].degrees:.1f} degrees, {_percent(standard.standard)} "
                f"standard and {_percent(standard.robust)} robust{switch}; the population {conditions} the conditions of theorem 2.2",
            ),
        ),
        tuple(breaches),
    )


def _is_first(found: Machine, p: float) -> bool:
    return abs(found.odds.standard - p) < 1e-6 and abs(found.odds.robust - p) < 1e-6


def _ratio(found: Machine, asked: Odds) -> str:
    return f"{found.eps / asked.population.eta:.4g}"


def _linear(asked: Odds, ratio: float) -> float:
    eps = ratio * asked.population.eta
    return accuracy(asked.population, best_linear(asked.population, eps), eps)


def _share(score, x, drawn: Sample) -> Interval:
    return wilson(int(right(score, x, drawn.y).sum()), len(drawn.y))


def _of(asked: Odds) -> str:
    population = asked.population
    signal = f"eta = {population.eta:.4g} (m = {population.m:.4g})"
    return f"d = {population.d}, p = {population.p:g}, {signal}, seed {asked.seed}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
