"""Numbers of single images as numbers of nets: medians and differences with intervals, and the words for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.experiments.outcome import Estimate
from holdfast.foundation.stats import Interval, bootstrap, wilson

REPEATS = 1000


def median(values: np.ndarray, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """The median over images with a bootstrap interval; images whose value is NaN are left out, and n says so."""
    return _estimate(bootstrap(_finite(values), np.median, seed=seed, repeats=REPEATS, confidence=confidence))


def mean(values: np.ndarray, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """The mean over images with a bootstrap interval; images whose value is NaN are left out, and n says so."""
    return _estimate(bootstrap(_finite(values), np.mean, seed=seed, repeats=REPEATS, confidence=confidence))


def share(truths: Any, *, confidence: float = 0.95) -> Interval:
    """The share of images of which something is true, (n,) bool, with Wilson's interval."""
    return wilson(int(np.count_nonzero(truths)), len(truths), confidence)


def difference(ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """The median of the paired differences ours - theirs over the same images, with a bootstrap interval."""
    return median(
        np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), seed=seed, confidence=confidence
    )


def larger(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The effect size P(ours > theirs) + P(equal) / 2 over all pairs of images: 0.5 where neither is larger."""
    first, second = _finite(ours), _finite(theirs)
    if not len(first) or not len(second):
        return math.nan
    ranks = np.sort(second)
    below, upto = np.searchsorted(ranks, first, "left"), np.searchsorted(ranks, first, "right")
    return float((below + upto).mean() / (2 * len(second)))


def sign(found: Estimate | Interval) -> int:
    """1 or -1 where the whole interval lies on that side of 0, else 0: nothing is said there."""
    return 1 if found.low > 0 else -1 if found.high < 0 else 0


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if (math.isfinite(value) and 1e-3 <= abs(value) < 1e5) or value == 0 else f"{value:.2g}"


def interval(found: Estimate | Interval, *, percent: bool = False) -> str:
    """``1.25 (1.1 to 1.4)``; shares in percent."""
    if percent:
        return f"{100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def none_for_nan(values: np.ndarray | Sequence[float]) -> tuple[float | None, ...]:
    """Numbers for a record: NaN and inf, which JSON does not have, are None."""
    return tuple(float(value) if math.isfinite(value) else None for value in np.asarray(values, dtype=np.float64))


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _estimate(found: Interval) -> Estimate:
    return Estimate(found.value, found.n, found.low, found.high)
