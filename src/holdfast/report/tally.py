"""What a page counts from the outcomes of a run: losses per stage, bins of margins, classes, pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.foundation.stats import Interval, PairedDifference, mcnemar, wilson
from holdfast.records.schema import CLEAN, Rate
from holdfast.report.read import FAILED, Outcome, Run

_BINS = 32


@dataclass(frozen=True)
class Loss:
    """What one stage took, at all radii up to the headline: it broke ``broken`` samples, and ``left`` remained."""

    stage: str
    broken: int
    left: int
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Bin:
    """One bar of the margin histogram: ``count`` samples, a ``share`` of the run, with margins in [low, high)."""

    low: float
    high: float
    count: int
    share: float


@dataclass(frozen=True)
class ClassTally:
    """One class of one run; ``wrong`` is the label most often taken for it, ``wrong_count`` of ``broken`` times."""

    label: int
    n: int
    clean: Rate
    robust: Rate
    broken: int
    wrong: int | None
    wrong_count: int


@dataclass(frozen=True)
class Pair:
    """Two runs on the same ``n`` images; ``test`` counts the samples that only one of them still gets right."""

    first: str
    second: str
    n: int
    test: PairedDifference

    @property
    def difference(self) -> Interval:
        """The second's accuracy minus the first's."""
        found = self.test.difference
        return Interval(-found.value, found.n, -found.high, -found.low)


def losses(run: Run) -> tuple[Loss, ...]:
    """The clean pass and the stages of the plan, in their order, as a waterfall from all samples to the robust ones."""
    eps = run.summary.eps
    broken = Counter(outcome.stage for outcome in run.outcomes if not outcome.held)
    inside = [stage for stage in run.summary.stages if stage.eps <= eps + 1e-12]
    order = [CLEAN, *(stage.name for stage in run.info.stages), *(stage.stage for stage in inside), *sorted(broken)]
    left, found = len(run.outcomes), []
    for name in dict.fromkeys(order):
        mine = [stage for stage in inside if stage.stage == name]
        if mine and not any(stage.entered for stage in mine):
            continue  # its rule let no one in
        left -= broken[name]
        spent = sum(stage.forwards for stage in mine), sum(stage.backwards for stage in mine)
        found.append(Loss(name, broken[name], left, *spent))
    return tuple(found)


def condensed(found: Sequence[Loss]) -> tuple[Loss, ...]:
    """The same with three or more stages in a row that broke nothing as one: "ce-1 to dlr-2"."""
    rows: list[list[Loss]] = []
    for loss in found:
        idle = loss.broken == 0 and loss.stage != CLEAN
        if idle and rows and rows[-1][0].broken == 0 and rows[-1][0].stage != CLEAN:
            rows[-1].append(loss)
        else:
            rows.append([loss])
    together = []
    for row in rows:
        if len(row) < 3:
            together += row
            continue
        spent = sum(loss.forwards for loss in row), sum(loss.backwards for loss in row)
        together.append(Loss(f"{row[0].stage} to {row[-1].stage}", 0, row[-1].left, *spent))
    return tuple(together)


def bins(runs: Sequence[Run]) -> tuple[tuple[Bin, ...], ...]:
    """The margin histogram of every run over one scale. 0 is an edge; the outer bins hold what lies beyond them."""
    margins = [np.array([o.margin for o in run.outcomes if o.margin is not None], dtype=float) for run in runs]
    together = np.concatenate(margins)
    if not together.size:
        return tuple(() for _ in runs)
    # The outermost half per cent would stretch the scale until nothing else could be seen.
    low, high = min(0.0, float(np.quantile(together, 0.005))), max(0.0, float(np.quantile(together, 0.995)))
    width = _round_width((high - low) / _BINS or 1.0)
    first, last = math.floor(low / width), max(math.ceil(high / width), 1) - 1
    return tuple(_bins(values, len(run.outcomes), first, last, width) for values, run in zip(margins, runs))


def _bins(values: np.ndarray, n: int, first: int, last: int, width: float) -> tuple[Bin, ...]:
    places = np.floor(values / width).clip(first, last).astype(int)
    # A broken sample's margin may be so close to 0 that the division gives -0.0, whose floor is 0.
    places[(values < 0) & (places > -1)] = -1
    counts = Counter(places.tolist())
    first = min(first, *counts, 0) if counts else first
    return tuple(Bin(k * width, (k + 1) * width, counts[k], counts[k] / n) for k in range(first, last + 1))


def _round_width(width: float) -> float:
    power = 10.0 ** math.floor(math.log10(width))
    return power * next(step for step in (1, 2, 2.5, 5, 10) if step * power >= width * (1 - 1e-9))


def classes(run: Run) -> tuple[ClassTally, ...]:
    """One tally per class that has samples, in the order of the labels."""
    grouped: dict[int, list[Outcome]] = {}
    for outcome in run.outcomes:
        if outcome.label >= 0:
            grouped.setdefault(outcome.label, []).append(outcome)
    return tuple(_class(label, grouped[label]) for label in sorted(grouped))


def _class(label: int, members: list[Outcome]) -> ClassTally:
    n = len(members)
    lost = [outcome for outcome in members if not outcome.held]
    # Of equally frequent answers the smaller label, so that the same records give the same page.
    taken = Counter(outcome.predicted for outcome in lost if outcome.stage != FAILED)
    top = sorted(taken.items(), key=lambda item: (-item[1], item[0]))[:1]
    wrong, times = top[0] if top else (None, 0)
    right = sum(outcome.right for outcome in members)
    return ClassTally(label, n, rate(right, n), rate(n - len(lost), n), len(lost), wrong, times)


def rate(successes: int, n: int) -> Rate:
    """A share with its 95 % Wilson interval."""
    found = wilson(successes, n)
    return Rate(value=found.value, n=n, low=found.low, high=found.high)


def pair(first: Run, second: Run) -> Pair | None:
    """The paired comparison at the headline radius; None where images, threat or radius differ."""
    one, two = first.summary, second.summary
    ids = [[(o.id, o.label) for o in run.outcomes] for run in (first, second)]
    same_data = first.info.data.fingerprint == second.info.data.fingerprint and ids[0] == ids[1]
    if not same_data or (one.threat, one.eps) != (two.threat, two.eps):
        return None
    held = [(a.held, b.held) for a, b in zip(first.outcomes, second.outcomes)]
    test = mcnemar(held.count((True, False)), held.count((False, True)), n=len(held))
    return Pair(first.label, second.label, len(held), test)
