"""Closed forms beside samples: the accuracy of linear classifiers, and of the best one, against eps."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from holdfast.experiments.charts import figure
from holdfast.experiments.odds.draw import Dot, beside, exactly, lines_and_dots
from holdfast.experiments.odds.settings import BREACH, FAR, Odds, hundredths
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict
from holdfast.experiments.theory import Part
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes.odds import Linear, accuracy, averaging, bayes, best, first_alone, linear
from holdfast.probes.odds_drawn import Sample, Score, errors_apart, right, sample, scoring, voting, worst
from holdfast.probes.odds_svm import machine

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
    far = {cell: off for cell, off in apart.items() if abs(off) > FAR}
    furthest = max(apart, key=lambda cell: abs(apart[cell]))
    wide = 2 * population.eta
    seen = (
        f"{len(apart) - len(far)} of {len(apart)} closed forms lie within 3 standard errors of the Monte Carlo of "
        f"{asked.n:,} rows (by chance {0.0027 * len(apart):.1f} would be further), the furthest {abs(apart[furthest]):.1f} "
        f"away ({furthest}); at the radius 2 eta = {wide:.4g} "
        f"f_avg keeps {hundredths(accuracy(population, averaging(population), wide))} against Linf and "
        f"{hundredths(accuracy(population, averaging(population), wide, 'l2'))} against L2"
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
        "The closed forms are what samples give",
        Outcome(
            caption=f"{asked.stated}. Closed forms, and Monte Carlo on {asked.n:,} rows, every one moved to its worst "
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
            f"{cell}: the Monte Carlo lies {off:+.1f} standard errors from the closed form"
            for cell, off in far.items()
            if abs(off) > BREACH
        ),
    )


def _share(score: Score, x: Tensor, drawn: Sample) -> Interval:
    return wilson(int(right(score, x, drawn.y).sum()), len(drawn.y))
