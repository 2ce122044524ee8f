"""Theorem 2.2: where adversarial training turns the support vector machine."""

from __future__ import annotations

from holdfast.experiments.charts import figure
from holdfast.experiments.odds.draw import Dot, exactly, lines_and_dots
from holdfast.experiments.odds.settings import Odds, hundredths
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict
from holdfast.experiments.theory import Part
from holdfast.probes.odds_svm import Machine, covered, machine


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
        "Theorem 2.2: standard training leaves less than 1 % at 2 eta, and training at eta or more leaves p",
        Outcome(
            caption=f"{asked.stated}. The unit-norm classifier of the least expected hinge loss at the worst point of Linf; "
            "0 degrees is x1 alone. Exact accuracies.",
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
                f"trained at eps 0 the machine stands at {found[0].degrees:.1f} degrees, {hundredths(standard.standard)} "
                f"standard and {hundredths(standard.robust)} robust{switch}; the population {conditions} the conditions of "
                "theorem 2.2",
            ),
        ),
        tuple(breaches),
    )


def _is_first(found: Machine, p: float) -> bool:
    return abs(found.odds.standard - p) < 1e-6 and abs(found.odds.robust - p) < 1e-6


def _ratio(found: Machine, asked: Odds) -> str:
    return f"{found.eps / asked.population.eta:.4g}"
