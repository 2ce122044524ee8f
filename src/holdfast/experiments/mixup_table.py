"""What the defences of a net got right, beside the net itself, and whether that has the shape of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.audit.defended.outcome import share
from holdfast.experiments.lab import rate
from holdfast.experiments.outcome import Verdict
from holdfast.experiments.under_attack import MARGIN, Answers
from holdfast.foundation.stats import Interval
from holdfast.probes.estimands import gain

ABOUT = 0.03
"""By how much MI-PL may change clean accuracy."""
COST = (-0.11, -0.05)
"""What MI-OL changes it by: the interval of the paired difference has to meet this one, and to lie below 0."""
RAISED = 0.15
"""What MI-OL adds to accuracy under targeted PGD, at least."""
LEFT = 0.05
"""What the adaptive attack leaves of MI-OL above the undefended net, at most."""


@dataclass(frozen=True)
class Table:
    """What is right at every point: defence -> column -> (n, m) bool.

    Args:
        net: what the net was trained on.
        right: ``none`` is the net itself, with m = 1.
        note: the pool and the threshold.
    """

    net: str
    right: dict[str, dict[str, np.ndarray]]
    note: str = ""

    def gain(self, defence: str, column: str) -> Interval:
        """The paired difference from the net itself."""
        return gain(self.right[defence][column], self.right["none"][column][:, 0]).difference


def undefended(answers: Sequence[Answers], label: np.ndarray, adaptive: Sequence[str]) -> dict[str, np.ndarray]:
    """The row of the net itself, column -> (n, 1) bool.

    Args:
        answers: of all its defences.
        label: (n,).
        adaptive: the columns in which the net must be right at every point that was found so far, by whatever search.
    """
    right = {key: np.array(said) == label for key, said in answers[0].model.items() if key not in adaptive}
    robust = np.all(list(right.values()), axis=0)
    right.pop(MARGIN)
    for column in adaptive:
        robust = np.all([robust, *(np.array(each.model[column]) == label for each in answers)], axis=0)
        right[column] = robust
    return {key: each[:, None] for key, each in right.items()}


def accuracy(right: np.ndarray) -> Interval:
    """The share of (n, m) booleans that are true, with its interval over images."""
    return rate(share(right.mean(1)))


def verdict(tables: Sequence[Table], aimed: str, adaptive: str) -> Verdict:
    """Whether the first net shows what was published, and every net what the adaptive attack leaves of it.

    ``aimed`` is the column of targeted PGD, ``adaptive`` that of the adaptive attack.
    """
    first = tables[0]
    pl, ol, raised = first.gain("MI-PL", "clean"), first.gain("MI-OL", "clean"), first.gain("MI-OL", aimed)
    left = {table.net: table.gain("MI-OL", adaptive) for table in tables}
    return Verdict(
        abs(pl.value) <= ABOUT
        and ol.low <= COST[1]
        and COST[0] <= ol.high < 0
        and raised.value >= RAISED
        and all(each.value <= LEFT for each in left.values()),
        f"on the {first.net} net MI-PL changes clean accuracy by {_points(pl)}, MI-OL by {_points(ol)} and accuracy under "
        f"{aimed} by {_points(raised)}; under the adaptive attack MI-OL differs from the undefended net by "
        + ", ".join(f"{_points(each)} ({net})" for net, each in left.items()),
    )


def _points(gain: Interval) -> str:
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
