"""Linear classifiers of two classes of images: where robust training puts its weight, and what few images make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.source import Source, subset, unit_images
from holdfast.experiments.charts import Panel, Point, figure, lines
from holdfast.experiments.odds.settings import Odds, drawn
from holdfast.experiments.outcome import Cell, Column, Outcome, Verdict, percent, seeds
from holdfast.experiments.theory import Part
from holdfast.foundation import units
from holdfast.foundation.errors import UnknownName
from holdfast.foundation.stats import Interval
from holdfast.probes import odds_linear
from holdfast.probes.odds import Linear

BOX = (0.0, 1.0)
TRAINED, CHOSEN = "trained at eps", "pixels of correlation at least"
WEAK = 0.2
"""Below this correlation with the class a pixel is called weak."""


@dataclass(frozen=True, eq=False)
class Two:
    """Images of two classes, flat: ``x`` (n, k) in [0, 1], and ``y`` (n,), 1 for the first class, -1 for the second."""

    x: np.ndarray
    y: np.ndarray


def pair(source: Source, classes: tuple[str, str]) -> Arrays:
    """The images of two classes of a source, by their names; the first class has the label 1, the second 0.

    Raises:
        UnknownName: a class that the source does not have.
    """
    for name in classes:
        if name not in source.class_names:
            raise UnknownName.among(f"class of {source.name}", name, source.class_names)
    numbers = [source.class_names.index(name) for name in classes]
    images, labels = source.take(source.ids)
    kept, names = np.isin(labels, numbers), classes[::-1]
    return from_pair(images[kept], (labels[kept] == numbers[0]).astype(np.int64), name=source.name, class_names=names)


def flat(source: Source) -> Two:
    """All images of a pair."""
    images, labels = source.take(source.ids)
    return Two(unit_images(images).reshape(len(images), -1).astype(np.float64), 2.0 * labels - 1)


def pixels(asked: Odds, train: Arrays, test: Arrays) -> Part:
    """Robust training leaves the weak pixels alone, and leaving them alone makes standard training robust."""
    learned = flat(subset(train, asked.images, asked.seed))
    judges = flat(test)
    correlation = odds_linear.correlations(learned.x, learned.y)
    radius = units.show(asked.judged_at)
    rows: list[tuple[Cell, ...]] = []
    clean: dict[tuple[str, float], Interval] = {}
    robust: dict[tuple[str, float], Interval] = {}
    weak: dict[float, float] = {}

    def judge(how: str, level: float, kept: np.ndarray, line: Linear) -> float:
        for found, eps in ((clean, 0.0), (robust, asked.judged_at)):
            found[how, level] = odds_linear.robust(line, odds_linear.linf(judges.x[:, kept], judges.y, eps, box=BOX))
        share = odds_linear.weight_below(line, correlation[kept], WEAK)
        used = int((np.abs(line.w) > 1e-6 * max(np.abs(line.w).max(), 1e-12)).sum())
        rows.append((how, units.show(level), used, clean[how, level], robust[how, level], 100 * share))
        return share

    every = np.ones(len(correlation), dtype=bool)
    for eps in asked.radii:
        line = odds_linear.fit(odds_linear.linf(learned.x, learned.y, eps, box=BOX), decay=asked.decay)
        weak[eps] = judge(TRAINED, eps, every, line)
    for level in asked.thresholds:
        kept = correlation >= level
        if not kept.any():
            break
        line = odds_linear.fit(odds_linear.linf(learned.x[:, kept], learned.y, 0.0, box=BOX), decay=asked.decay)
        judge(CHOSEN, level, kept, line)
    panels = [
        Panel(
            how,
            [
                Point(word, level, found[how, level])
                for word, found in (("clean", clean), (f"robust at {radius}", robust))
                for kind, level in found
                if kind == how
            ],
        )
        for how in (TRAINED, CHOSEN)
    ]
    levels = [level for how, level in clean if how == CHOSEN]
    top = max(asked.radii, key=lambda eps: robust[TRAINED, eps].value)
    best = max(levels, key=lambda level: robust[CHOSEN, level].value)
    first, second = asked.classes
    return Part(
        "pixels",
        "Robust training leaves weak pixels alone, and without them standard training is robust",
        Outcome(
            caption=f"{first} against {second}, {train.name}: linear classifiers of {len(learned.y):,} training images, "
            f"exact for each of {len(judges.y):,} test images in the box [0, 1], Linf, 95 % Wilson intervals. A pixel is "
            "used if its weight is above a millionth of the largest, and weak if its correlation with the class is below "
            f"{WEAK}.",
            columns=(
                Column("how"),
                Column("level"),
                Column("pixels used"),
                Column("clean"),
                Column(f"robust at {radius}"),
                Column("weight on weak pixels", "%", 1),
            ),
            rows=tuple(rows),
            chart=figure(lines(panels, x="level: training eps, or correlation", y="accuracy, test images")),
            verdict=Verdict(
                weak[top] < weak[0.0] and robust[CHOSEN, best].low > robust[CHOSEN, levels[0]].high,
                f"training at Linf {units.show(top)} moves the weight on weak pixels from {percent(weak[0.0])} to "
                f"{percent(weak[top])}, robust accuracy from {percent(robust[TRAINED, 0.0].value)} to "
                f"{percent(robust[TRAINED, top].value)} and clean from {percent(clean[TRAINED, 0.0].value)} to "
                f"{percent(clean[TRAINED, top].value)}; standard training on pixels of correlation {units.show(best)} "
                f"and more alone has {percent(robust[CHOSEN, best].value)} robust and "
                f"{percent(clean[CHOSEN, best].value)} clean",
            ),
        ),
    )


def sizes(asked: Odds, train: Arrays, test: Arrays) -> Part:
    """Clean accuracy against the radius of training, for several numbers of images."""
    judges = flat(test)
    fair = odds_linear.linf(judges.x, judges.y, 0.0, box=BOX)
    held = [n for n in asked.sizes if n <= len(train)]
    clean: dict[tuple[int, float], list[float]] = {}
    for n in held:
        for number in range(asked.num_seeds):
            chosen = flat(subset(train, n, asked.seed + number))
            for eps in asked.sizes_radii:
                line = odds_linear.fit(odds_linear.linf(chosen.x, chosen.y, eps, box=BOX), decay=asked.decay)
                clean.setdefault((n, eps), []).append(odds_linear.robust(line, fair).value)
    found = {cell: drawn(values) for cell, values in clean.items()}
    gain = {
        (n, eps): seeds([one - base for one, base in zip(values, clean[n, 0.0])])
        for (n, eps), values in clean.items()
        if eps
    }
    best = {n: max(asked.sizes_radii, key=lambda eps: found[n, eps].value) for n in held}
    few, many, largest = held[0], held[-1], asked.sizes_radii[-1]
    told = ", ".join(f"{units.show(best[n])} with {n:,} images" for n in held)
    rows: list[tuple[Cell, ...]] = [
        (n, units.show(eps), cell, gain.get((n, eps), "")) for (n, eps), cell in found.items()
    ]
    first, second = asked.classes
    panel = Panel("", [Point(f"{n:,} images", eps, found[n, eps]) for n, eps in found])
    return Part(
        "sizes",
        "Robust training helps clean accuracy where images are few, and the best radius shrinks with their number",
        Outcome(
            caption=f"{first} against {second}, {train.name}: clean accuracy of linear classifiers on {len(judges.y):,} "
            f"test images, the mean of {asked.num_seeds} trainings on images of their own, with Student's 95 % interval; "
            "the gain is over training eps 0 on the same images. Of nets: holdfast experiment small_data.",
            columns=tuple(map(Column, ("images", "training eps", "clean", "gain over eps 0"))),
            rows=tuple(rows),
            chart=figure(lines([panel], x="training eps", y="clean accuracy", from_zero=False)),
            verdict=Verdict(
                best[few] > best[many] and found[few, best[few]].value > found[few, 0.0].value,
                f"the training eps of the highest clean accuracy is {told}; eps {units.show(largest)} changes clean "
                f"accuracy by {100 * gain[few, largest].value:+.1f} points with {few:,} images and by "
                f"{100 * gain[many, largest].value:+.1f} with {many:,}",
            ),
        ),
    )
