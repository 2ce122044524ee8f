"""Robustness at odds with accuracy: the population for which both are known without drawing a sample.

Notation of Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), section 2: y is -1 or 1 with equal chance;
x_1 = y with probability p, else -y; x_2 ... x_{d+1} are independent N(eta y, 1). Everything is stated with m = eta sqrt(d),
the signal of all weak features together, and mu = (eta - eps) sqrt(d), what Linf of radius eps leaves of it.

The paper states f_avg and the theorems; the closed form of any linear classifier, the exact frontier and the best robust
accuracy are derived here (by Neyman and Pearson's lemma), and checked by `holdfast.probes.odds_drawn`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick


@dataclass(frozen=True)
class Population:
    """The law of (x, y): ``d`` weak features of mean ``eta`` y, and one that is right with probability ``p``.

    Raises:
        BadValue: d below 1, p outside [0.5, 1), or eta not above 0.
    """

    d: int
    p: float
    eta: float

    def __post_init__(self) -> None:
        if self.d < 1 or not 0.5 <= self.p < 1 or not 0 < self.eta < math.inf:
            raise BadValue(
                f"d is {self.d}, p {self.p}, eta {self.eta}; at least 1, in [0.5, 1) and above 0 are needed",
                hint="the paper has p=0.95 and eta of the order of 1/sqrt(d): d=100, eta=0.4",
            )

    @property
    def m(self) -> float:
        """The signal-to-noise ratio of the sum of the weak features."""
        return self.eta * math.sqrt(self.d)

    def mu(self, eps: float) -> float:
        """What is left of m after an Linf shift by eps; negative beyond eta."""
        return (self.eta - eps) * math.sqrt(self.d)

    @property
    def logit(self) -> float:
        """log(p / (1 - p)): what x_1 is worth as evidence."""
        return math.log(self.p / (1 - self.p))


@dataclass(frozen=True, eq=False)
class Linear:
    """sign(w.x + b), wrong at 0; ``w`` has shape (d + 1,), that of x_1 first."""

    w: np.ndarray
    b: float = 0.0


@dataclass(frozen=True)
class Odds:
    """Two accuracies of one classifier, in [0, 1]: the ``standard`` one and the ``robust`` one."""

    standard: float
    robust: float


def linear(population: Population, first: float, rest: float) -> Linear:
    """The classifier with the weight ``first`` on x_1 and equal weights, of the norm ``rest``, on the weak features."""
    return Linear(np.r_[first, np.full(population.d, rest / math.sqrt(population.d))])


def averaging(population: Population) -> Linear:
    """f_avg, which ignores x_1: standard accuracy Phi(m), robust accuracy Phi(mu)."""
    return linear(population, 0.0, 1.0)


def first_alone(population: Population) -> Linear:
    """sign(x_1): p at every eps below 1 in every norm, 0 from there on."""
    return linear(population, 1.0, 0.0)


def bayes(population: Population) -> Linear:
    """The classifier of the highest standard accuracy."""
    return linear(population, population.logit / 2, population.m)


def accuracy(population: Population, classifier: Linear, eps: float = 0.0, norm: str = "linf") -> float:
    """The exact accuracy of a linear classifier against the ball of radius ``eps``, in [0, 1].

    The worst shift takes eps times the dual norm of w from the margin, which is normal given y and x_1.

    Args:
        classifier: any weights and bias.
        eps: the radius, at least 0.
        norm: ``linf`` or ``l2``; there is no box.
    """
    from scipy.special import ndtr

    w1, v, b = float(classifier.w[0]), classifier.w[1:], classifier.b
    lost = eps * float(np.linalg.norm(classifier.w, pick("norm", norm, {"linf": 1, "l2": 2})))
    sigma, pull = float(np.linalg.norm(v)), population.eta * float(v.sum())
    total = 0.0
    for y in (1, -1):
        for chance, side in ((population.p, w1), (1 - population.p, -w1)):
            margin = side + pull + y * b - lost
            total += chance / 2 * (float(ndtr(margin / sigma)) if sigma else float(margin > 0))
    return total


def traded(population: Population, t: float, eps: float | None = None) -> Odds:
    """Standard and robust accuracy of f_t(x) = sign(2 m t sign(x_1) + 2 eta sum x_i), for Linf of radius eps below 1.

    At eps = 2 eta, the default, these are the Pareto set over all classifiers, from t = logit / (2 m), which is Bayes's, to
    infinity, which is x_1 alone. Everything depends on p, m and eps / eta only.
    """
    from scipy.special import ndtr

    eps = 2 * population.eta if eps is None else _below_one(eps)
    p, m, mu = population.p, population.m, population.mu(eps)
    return Odds(*(float(p * ndtr(at + t) + (1 - p) * ndtr(at - t)) for at in (m, mu)))


def most_accurate(population: Population) -> float:
    """The t with which f_t is Bayes's classifier: where the frontier begins."""
    return population.logit / (2 * population.m)


def ceiling(population: Population, standard: float) -> float:
    """The highest robust accuracy at Linf eps = 2 eta < 1 of any classifier of that standard accuracy: the exact frontier.

    A standard accuracy above that of Bayes, which only an estimate can be, is taken for Bayes's.
    """
    from scipy.optimize import brentq

    begin = most_accurate(population)
    top = traded(population, begin)
    if standard >= top.standard:
        return top.robust
    end = population.m + 10  # where the normal tail is below 1e-22
    if standard <= traded(population, end).standard:
        return min(standard, population.p)
    found = brentq(lambda t: traded(population, t).standard - standard, begin, end, full_output=True)[1]
    return traded(population, found.root).robust


def bound(population: Population, standard: float) -> float:
    """Theorem 2.1: no classifier of standard accuracy 1 - delta has more than delta p / (1 - p) at Linf eps >= 2 eta."""
    return min(1.0, population.p / (1 - population.p) * (1 - standard))


def best(population: Population, eps: float) -> float:
    """The highest accuracy of any classifier whatever against Linf of radius ``eps``, any radius from 0 on.

    Below min(eta, 1) it is that of f_t with t = logit / (2 mu). From eta on the weak features tell nothing and p is left;
    from 1 on x_1 tells nothing, and the weak ones alone are left.
    """
    from scipy.special import ndtr

    mu = population.mu(eps)
    if eps >= 1:
        return float(ndtr(max(0.0, mu)))
    return traded(population, population.logit / (2 * mu), eps).robust if mu > 0 else population.p


def best_linear(population: Population, eps: float) -> Linear:
    """The linear classifier of the highest accuracy against Linf of radius ``eps`` below 1, among those that treat all weak
    features and both classes alike.

    With r the ratio of the weight of x_1 to the norm of the others, the accuracy p Phi(mu + r (1 - eps)) + (1 - p)
    Phi(mu - r (1 + eps)) is stationary where 2 eps r^2 - 2 mu r + L = 0, L = logit + log((1 - eps) / (1 + eps)): at its
    maximum, the smaller root, unless x_1 alone is better.
    """
    mu, alone = population.mu(_below_one(eps)), first_alone(population)
    worth = population.logit + math.log((1 - eps) / (1 + eps))
    inside = mu * mu - 2 * eps * worth
    if mu <= 0 or inside < 0:
        return alone
    both = linear(population, max(0.0, worth / (mu + math.sqrt(inside))), 1.0)
    return max(both, alone, key=lambda each: accuracy(population, each, eps))


def _below_one(eps: float) -> float:
    if not 0 <= eps < 1:
        raise BadValue(f"eps is {eps}; this holds in [0, 1) only", hint="from 1 on x_1 can be moved to 0 or beyond")
    return eps
