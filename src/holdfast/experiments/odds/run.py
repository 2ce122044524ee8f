"""All parts in their order."""

from __future__ import annotations

from holdfast.data.source import Source
from holdfast.experiments.odds.best import bests
from holdfast.experiments.odds.images import pair, pixels, sizes
from holdfast.experiments.odds.machines import machines
from holdfast.experiments.odds.monte_carlo import accuracies
from holdfast.experiments.odds.settings import Odds
from holdfast.experiments.odds.trained import frontier, samples
from holdfast.experiments.theory import Part, Progress


def run(asked: Odds, train: Source, test: Source, progress: Progress = lambda name, done, total: None) -> list[Part]:
    """Computes everything; seconds on one core.

    Args:
        asked: the settings.
        train: images that the linear classifiers of two classes are trained on; other classes are left out.
        test: those that they are judged on.
        progress: told which part is going on.
    """
    learned, judges = pair(train, asked.classes), pair(test, asked.classes)
    parts = {
        "accuracy": lambda: accuracies(asked),
        "best": lambda: bests(asked),
        "svm": lambda: machines(asked),
        "frontier": lambda: frontier(asked),
        "samples": lambda: samples(asked),
        "pixels": lambda: pixels(asked, learned, judges),
        "sizes": lambda: sizes(asked, learned, judges),
    }
    found = []
    for place, (name, compute) in enumerate(parts.items()):
        progress(name, place, len(parts))
        found.append(compute())
    progress("done", len(parts), len(parts))
    return found
