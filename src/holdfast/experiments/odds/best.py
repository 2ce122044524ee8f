"""The highest accuracy that any classifier can have at each eps."""

from __future__ import annotations

import numpy as np

from holdfast.experiments.charts import figure
from holdfast.experiments.odds.draw import lines_and_dots
from holdfast.experiments.odds.settings import Odds, hundredths
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict
from holdfast.experiments.theory import Part
from holdfast.probes.odds import accuracy, averaging, bayes, best, best_linear

GRID = 60
"""Places at which a curve is drawn."""


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
                f"at eps {ratio:.4g} eta a linear classifier has {hundredths(max(others))}, more than the best"
            )
    grid = np.linspace(0, max(asked.ratios), GRID)
    curves = {
        "any classifier": [(float(at), best(population, float(at) * population.eta)) for at in grid],
        "best linear": [
            (float(at), accuracy(population, best_linear(population, at * population.eta), at * population.eta))
            for at in grid
        ],
        "Bayes": [(float(at), accuracy(population, bayes(population), at * population.eta)) for at in grid],
        "f_avg": [(float(at), accuracy(population, averaging(population), at * population.eta)) for at in grid],
    }
    gain = max(asked.ratios, key=lambda ratio: values[ratio] - _linear(asked, ratio))
    beyond = [ratio for ratio in asked.ratios if ratio >= 1]
    falling = all(values[a] >= values[b] - 1e-12 for a, b in zip(asked.ratios, asked.ratios[1:]))
    left = f"; from eps = eta on exactly p = {hundredths(population.p)}" if beyond else ""
    return Part(
        "best",
        "No linear classifier beats the best of all, which has p from eps = eta on",
        Outcome(
            caption=f"{asked.stated}. Exact accuracies against Linf, nothing sampled.",
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
                f"the best classifier has {hundredths(values[asked.ratios[0]])} at eps {asked.ratios[0]:.4g} eta and "
                f"{hundredths(values[asked.ratios[-1]])} at {asked.ratios[-1]:.4g} eta; it beats the best linear one by "
                f"{100 * (values[gain] - _linear(asked, gain)):.2f} points at {gain:.4g} eta, the most{left}",
            ),
        ),
        tuple(breaches),
    )


def _linear(asked: Odds, ratio: float) -> float:
    eps = ratio * asked.population.eta
    return accuracy(asked.population, best_linear(asked.population, eps), eps)
