"""Samples of the population of `holdfast.probes.odds`: Monte Carlo beside the closed forms, and theorem 2.1 on any model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes.odds import Linear, Population, bound, ceiling

NAME = keys.number("robustness at odds with accuracy")
AT_ONCE = 1 << 24
"""Values that are drawn at once."""

Score = Callable[[Tensor], Tensor]
"""Any classifier of x (n, d + 1): a number for each row, above 0 for the class 1, below it for -1; 0 is wrong for both."""


@dataclass(frozen=True)
class Sample:
    """``x`` (n, d + 1) float32, and ``y`` (n,) float32, -1 or 1."""

    x: Tensor
    y: Tensor


def sample(population: Population, n: int, seed: int, *, first: int = 0) -> Sample:
    """Rows ``first`` to ``first + n - 1`` of the seed's endless sample; weak features lie within 6.8 of their means."""
    key = keys.fold(keys.fold(keys.root(seed), NAME), torch.arange(first, first + n))
    coins = keys.uniform(keys.fold(key, 0), (2,))
    y = torch.where(coins[:, 0] < 0.5, 1.0, -1.0)
    strong = torch.where(coins[:, 1] < population.p, y, -y)
    weak = keys.box_muller(keys.fold(key, 1), (population.d,)) + population.eta * y[:, None]
    return Sample(torch.cat([strong[:, None], weak], 1), y)


def scoring(classifier: Linear) -> Score:
    """The score w.x + b of a linear classifier."""
    w = torch.as_tensor(classifier.w, dtype=torch.float32)
    return lambda x: x @ w + classifier.b


def worst(classifier: Linear, drawn: Sample, eps: float, norm: str = "linf") -> Tensor:
    """The rows of a sample at the worst points of their balls for a linear classifier, (n, d + 1)."""
    w = torch.as_tensor(classifier.w, dtype=torch.float32)
    towards = pick("norm", norm, {"linf": w.sign(), "l2": w / w.norm()})
    return drawn.x - eps * drawn.y[:, None] * towards


def voting(population: Population, t: float) -> Score:
    """The score of f_t (`holdfast.probes.odds.traded`), whose worst point of an Linf ball of radius below 1 is x - eps y."""
    return lambda x: 2 * population.m * t * x[:, 0].sign() + 2 * population.eta * x[:, 1:].sum(1)


def right(score: Score, x: Tensor, y: Tensor) -> Tensor:
    """Whether each row is classified rightly, (n,) bool."""
    return score(x) * y > 0


def errors_apart(measured: Interval, exact: float) -> float:
    """By how many of its standard errors a measured share lies above the exact one.

    The standard error is that of the exact share, at least 1 / n: where less than one sample is expected to be on a side,
    the normal law says nothing.
    """
    n = measured.n
    return (measured.value - exact) / math.sqrt(max(exact * (1 - exact), 1 / n) / n)


@dataclass(frozen=True)
class Shifted:
    """Theorem 2.1 on one model. With f's accuracy where x_1 is right, and where it is wrong, each measured on n rows,
    the first weighs p and the second 1 - p.

    Args:
        standard: the accuracy on the population.
        robust: the accuracy after every weak feature was moved by 2 eta against y: at least the robust accuracy at 2 eta.
        implied: what ``robust`` must be: the shift turns the law of the weak features under y into that under -y, so that
            it is 1 - (1 - p) A - p B, A and B the accuracies on the unshifted rows where x_1 is right and where it is wrong.
        apart: by how many standard errors ``robust`` lies above ``implied``; more than 3 means that something is wrong.
        bound: of theorem 2.1, at ``standard``.
        ceiling: the exact frontier, at ``standard``.
        above: by how many standard errors ``robust`` lies above ``bound``.
    """

    standard: Interval
    robust: Interval
    implied: float
    apart: float
    bound: float
    ceiling: float
    above: float


def shifted(population: Population, score: Score, *, n: int = 20_000, seed: int = 0) -> Shifted:
    """Checks theorem 2.1 on any classifier, by its proof: 4 n forwards, no gradient, no attack.

    Args:
        score: the classifier; it may draw, if its draws do not depend on the row's place.
        n: rows; each is classified with x_1 right and wrong, before and after the shift.
        seed: of the sample.

    Raises:
        BadValue: n below 2.
    """
    if n < 2:
        raise BadValue(f"n is {n}; no error can be told from fewer than 2 rows", hint="leave it out: 20,000 are quick")
    parts = []
    size = max(1, AT_ONCE // (population.d + 1))
    with torch.no_grad():
        for begin in range(0, n, size):
            drawn = sample(population, min(size, n - begin), seed, first=begin)
            parts.append(torch.stack([_with_first(score, drawn, population, side, by) for side, by in _FOUR]))
    held = torch.cat(parts, 1)
    plus, minus, plus_moved, minus_moved = held.double()
    p = population.p
    value = {"standard": p * plus + (1 - p) * minus, "robust": p * plus_moved + (1 - p) * minus_moved}
    implied = 1 - (1 - p) * plus - p * minus
    # The theorem at the sample: robust - p / (1 - p) (1 - standard), row by row.
    over = value["robust"] - p / (1 - p) * (1 - value["standard"])
    standard, robust = (_weighted(held[i : i + 2], p) for i in (0, 2))
    return Shifted(
        standard=standard,
        robust=robust,
        implied=float(implied.mean()),
        apart=_in_errors(value["robust"] - implied),
        bound=bound(population, standard.value),
        ceiling=ceiling(population, standard.value),
        above=_in_errors(over),
    )


_FOUR = ((1, 0.0), (-1, 0.0), (1, 2.0), (-1, 2.0))
"""Whether x_1 is right, and by how many eta the weak features are moved."""


def _with_first(score: Score, drawn: Sample, population: Population, side: int, by: float) -> Tensor:
    weak = drawn.x[:, 1:] - by * population.eta * drawn.y[:, None]
    return right(score, torch.cat([side * drawn.y[:, None], weak], 1), drawn.y)


def _weighted(held: Tensor, p: float) -> Interval:
    """The accuracy from its two strata, (2, n) bool, with the weighted bounds of their Wilson intervals."""
    plus, minus = (wilson(int(each.sum()), len(each)) for each in held)
    mixed = (p * one + (1 - p) * other for one, other in zip(*((s.value, s.low, s.high) for s in (plus, minus))))
    value, low, high = mixed
    return Interval(value, plus.n, low, high)


def _in_errors(values: Tensor) -> float:
    n = len(values)
    return float(values.mean()) / max(float(values.std()), 1 / math.sqrt(n)) * math.sqrt(n)
