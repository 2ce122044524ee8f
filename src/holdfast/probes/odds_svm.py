"""Where adversarial training turns a support vector machine, on the population of `holdfast.probes.odds`.

Source: Tsipras et al. (ICLR 2019), theorem 2.2: the unit-norm classifier of the least expected hinge loss. That the problem
has one dimension, by symmetry, is derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from holdfast.probes.odds import Linear, Odds, Population, accuracy, linear

STEP = 0.01
"""Degrees between the angles that are tried: an angle below it is given as 0."""


@dataclass(frozen=True)
class Machine:
    """The solution for one radius of training.

    Args:
        eps: the Linf radius that its hinge loss was robust to.
        degrees: the angle between its weights and the axis of x_1, in [0, 90]: 0 is x_1 alone, 90 f_avg.
        classifier: its weights, of unit norm, without a bias.
        odds: its standard accuracy, and its robust accuracy at Linf 2 eta.
    """

    eps: float
    degrees: float
    classifier: Linear
    odds: Odds


def machine(population: Population, eps: float) -> Machine:
    """The unit-norm linear classifier of the least expected adversarial hinge loss; eps = 0 is the standard one."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(0.0, 90.0, round(90 / STEP) + 1)
    place = int(hinge(population, grid, eps).argmin())
    degrees = float(grid[place])
    if place:
        near = (grid[place - 1], grid[min(place + 1, len(grid) - 1)])
        found = minimize_scalar(lambda at: float(hinge(population, np.array([at]), eps)[0]), bounds=near)
        degrees = float(found.x)
    turned = math.radians(degrees)
    classifier = linear(population, math.cos(turned), math.sin(turned))
    odds = Odds(*(accuracy(population, classifier, at) for at in (0.0, 2 * population.eta)))
    return Machine(eps, degrees, classifier, odds)


def hinge(population: Population, degrees: np.ndarray, eps: float) -> np.ndarray:
    """The expected hinge loss at the worst point of the Linf ball, of the unit-norm classifiers at these angles.

    The worst margin is normal given whether x_1 is right: its mean is +-cos a + m sin a - eps (cos a + sqrt(d) sin a), its
    deviation sin a.
    """
    from scipy.special import ndtr

    a = np.radians(degrees)
    cos, sin = np.cos(a), np.sin(a)
    common = population.m * sin - eps * (cos + math.sqrt(population.d) * sin)
    total = np.zeros_like(a)
    for chance, side in ((population.p, cos), (1 - population.p, -cos)):
        short = 1 - (side + common)
        z = np.divide(short, sin, out=np.copysign(np.full_like(a, np.inf), short), where=sin > 0)
        total += chance * (short * ndtr(z) + sin * np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    return total


def covered(population: Population) -> bool:
    """Whether the population satisfies the conditions of theorem 2.2: eta >= 4 / sqrt(d), p <= 0.975."""
    return population.m >= 4 - 1e-9 and population.p <= 0.975
