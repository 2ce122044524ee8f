"""What a measured share is worth: intervals for one share, for the difference of two on the same samples, for any mean.

SciPy is imported inside the functions that need it, so that `import holdfast` stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from holdfast.foundation.errors import BadValue


@dataclass(frozen=True)
class Interval:
    """An estimate ``value`` from ``n`` samples, and the interval [``low``, ``high``] around it."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """How two classifiers differ on the same ``n`` samples.

    ``difference`` is the share that only A has minus the share that only B has, in [-1, 1]; ``p_value`` is the exact
    two-sided probability of a split at least as uneven as this one if A and B were equally good.
    """

    only_a: int
    only_b: int
    difference: Interval
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a share (Wilson 1927), without continuity correction.

    Args:
        successes: how many of the samples have the property, in [0, n].
        n: how many samples there are. With 0 nothing is known: the value is NaN and the interval [0, 1].
        confidence: the coverage wanted, in (0, 1).

    Raises:
        BadValue: a count that is negative or no integer, more successes than samples, a confidence outside (0, 1).
    """
    _check_counts(successes, n)
    z = _quantile(confidence)
    if n == 0:
        return Interval(math.nan, 0, 0.0, 1.0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is the share itself; rounding must not put it a hair inside.
    low = 0.0 if successes == 0 else min(max(0.0, centre - half), share)
    high = 1.0 if successes == n else max(min(1.0, centre + half), share)
    return Interval(share, n, low, high)


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a share (Clopper and Pearson 1934): it covers at least ``confidence`` for every true share.

    Arguments, the case ``n == 0`` and errors are those of `wilson`.
    """
    from scipy.special import betaincinv

    _check_counts(successes, n)
    _quantile(confidence)
    if n == 0:
        return Interval(math.nan, 0, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(successes / n, n, low, high)


def mcnemar(only_a: int, only_b: int, *, n: int, confidence: float = 0.95) -> PairedDifference:
    """McNemar's exact test on paired samples, and the difference of the two shares with its interval.

    Args:
        only_a: samples that A gets right and B wrong.
        only_b: samples that B gets right and A wrong.
        n: all samples, those on which A and B agree included. With 0 the difference is NaN in [-1, 1], the p-value 1.
        confidence: the coverage wanted of the interval, in (0, 1).

    The p-value is the exact two-sided binomial one (McNemar 1947, without approximation). The interval is Wald's after
    half a sample is added to each of the four cells (Agresti and Min 2005, "Wald+2"), cut to [-1, 1] and, a departure,
    widened to hold the plain difference where a low confidence would leave it out.

    Raises:
        BadValue: as in `wilson`, or ``only_a + only_b`` above ``n``.
    """
    from scipy.special import bdtr

    _check_counts(only_a, n)
    _check_counts(only_b, n)
    _check_counts(only_a + only_b, n)
    z = _quantile(confidence)
    if n == 0:
        return PairedDifference(0, 0, Interval(math.nan, 0, -1.0, 1.0), 1.0)
    uneven = only_a + only_b
    p_value = min(1.0, 2 * float(bdtr(min(only_a, only_b), uneven, 0.5))) if uneven else 1.0
    value = (only_a - only_b) / n
    shrunk = (only_a - only_b) / (n + 2)
    half = z * math.sqrt(max(0.0, (uneven + 1) / (n + 2) - shrunk * shrunk) / (n + 2))
    low, high = min(max(-1.0, shrunk - half), value), max(min(1.0, shrunk + half), value)
    return PairedDifference(only_a, only_b, Interval(value, n, low, high), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that all stand together (Holm 1979), in the order given.

    Rejecting where the adjusted value is at most alpha rejects any true hypothesis with a probability of at most alpha,
    however the tests depend on one another.

    Args:
        p_values: each in [0, 1]; with one alone it is returned as it is.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def bootstrap(
    values: np.ndarray | Sequence[float],
    statistic: Callable[[np.ndarray], float | np.floating] = np.mean,
    *,
    seed: int,
    repeats: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of any statistic of independent values (Efron 1979).

    Args:
        values: (n,) finite numbers. With none, the value is NaN and the interval unbounded.
        statistic: (n,) -> a number; called on ``values`` and on each resample of the same length.
        seed: a non-negative integer; the same seed gives the same interval.
        repeats: how many resamples, at least 1.
        confidence: the coverage wanted, in (0, 1).

    Raises:
        BadValue: values that are no finite numbers or not one-dimensional, or a parameter outside its range.
    """
    _quantile(confidence)
    for what, given, least in (("seed", seed, 0), ("repeats", repeats, 1)):
        if not _is_count(given) or given < least:
            raise BadValue(
                f"{what} is {given!r}; it must be an integer of at least {least}", hint=f"give {what}={least}"
            )
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadValue(f"the values are no numbers: {error}", hint="give a flat list of floats") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        raise BadValue(
            f"the values have shape {array.shape} and must be (n,) and finite",
            hint="drop NaN and inf, and flatten them",
        )
    if len(array) == 0:
        return Interval(math.nan, 0, -math.inf, math.inf)
    draws = np.random.default_rng(seed)
    seen = [float(statistic(array[draws.integers(0, len(array), len(array))])) for _ in range(repeats)]
    low, high = np.quantile(seen, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(array)), len(array), float(low), float(high))


def bounded_mean(values: np.ndarray | Sequence[float], *, most: float, seed: int, repeats: int = 1000) -> Interval:
    """The mean of independent values in [0, ``most``] with the 95 % interval of `bootstrap`.

    Resampling sees no variance where all values are 0, or all are ``most``, though the next one may differ. The mean is at
    most the share of values above 0, times ``most``: then the interval is Wilson's of none, or of all, times ``most``. With
    fewer than two values nothing is known, and it is [0, ``most``].

    Arguments and errors are those of `bootstrap`.
    """
    found = bootstrap(values, seed=seed, repeats=repeats)
    if found.n < 2:
        return Interval(found.value, found.n, 0.0, most)
    unseen = most * wilson(0, found.n).high
    if not np.any(values):
        return Interval(found.value, found.n, 0.0, unseen)
    if np.min(values) >= most * (1 - 1e-9):  # sums of shares are rounded
        return Interval(found.value, found.n, min(found.value, most - unseen), max(found.value, most))
    return found


def _is_count(given: object) -> bool:
    return isinstance(given, (int, np.integer)) and not isinstance(given, bool)


def _check_counts(part: int, n: int) -> None:
    if not (_is_count(part) and _is_count(n)) or not 0 <= part <= n:
        raise BadValue(f"{part!r} of {n!r} is no share", hint="give integers with 0 <= part <= n")


def _quantile(confidence: float) -> float:
    """The two-sided normal quantile: 1.96 for 0.95."""
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise BadValue(f"the confidence is {confidence!r}; it must lie between 0 and 1", hint="0.95 is the usual one")
    return NormalDist().inv_cdf((1 + confidence) / 2)
