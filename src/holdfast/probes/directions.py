"""Do the natural units of a layer mean more than other directions? Judged by the labels of the images that excite them most.

Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 3, who show pictures; the statistics
are additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval

EQUAL = 0.4, 0.6
"""Two kinds of directions are called equal where the whole interval of `effect` lies in between."""
VARIANCE = 0.95
"""The share of the variance that the principal axes looked at hold together."""


class Chance(NamedTuple):
    """What k images that are drawn at random, without replacement, show on average."""

    purity: float
    entropy: float


@dataclass(frozen=True)
class Rotation:
    """The mean purity of the natural basis, ``value``, against that of ``rotated`` ones, (R,): ``z`` and two-sided ``p``."""

    value: float
    rotated: np.ndarray
    z: float
    p: float


def top(directions: np.ndarray, activations: np.ndarray, k: int) -> np.ndarray:
    """The k images with the largest <activation, direction>, largest first, (M, k).

    Ties fall anywhere: shuffle the images, so that it is not their order that decides.

    Args:
        directions: (M, D).
        activations: of the images, (N, D), N at least k.
    """
    if not 1 <= k <= len(activations):
        raise BadValue(f"k is {k!r} for {len(activations)} images", hint="give a whole number from 1 to their number")
    scores = directions @ activations.T
    chosen = np.argpartition(scores, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(scores, chosen, 1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)


def purity(labels: np.ndarray) -> np.ndarray:
    """The share of the commonest label in each row of (M, k), in [1/k, 1]."""
    return _counts(labels).max(1) / labels.shape[1]


def entropy(labels: np.ndarray, classes: int) -> np.ndarray:
    """The entropy of the labels in each row of (M, k), over the largest possible, log min(k, classes): in [0, 1]."""
    shares = _counts(labels) / labels.shape[1]
    return -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum(1) / _most(labels, classes)


def by_chance(labels: np.ndarray, k: int, classes: int) -> Chance:
    """Purity and entropy of k of these images at random: the expectations, computed exactly.

    The largest count is at most m with the probability that independent binomial counts, given their sum, all are.

    Args:
        labels: of all images, (N,).
        k: how many are drawn.
        classes: how many there may be, as `entropy` takes it.
    """
    from scipy.stats import binom, hypergeom

    _, counts = np.unique(labels, return_counts=True)
    places, share = np.arange(k + 1), k / len(labels)
    each = [binom.pmf(places, count, share) for count in counts]
    whole, expected = binom.pmf(k, len(labels), share), 0.0
    for most in range(k):
        joint = np.ones(1)
        for masses in each:
            joint = np.convolve(joint, masses[: most + 1])[: k + 1]
        expected += 1 - (joint[k] / whole if len(joint) > k else 0.0)
    shares = np.arange(1, k + 1) / k
    terms = -shares * np.log(shares)
    mean = sum(float(hypergeom.pmf(places[1:], len(labels), count, k) @ terms) for count in counts)
    return Chance(float(expected) / k, mean / _most(labels[None, :k], classes))


def rotation_test(
    activations: np.ndarray, labels: np.ndarray, k: int, *, rotations: int = 200, seed: int = 0
) -> Rotation:
    """Is the natural basis special? Its mean purity against that of the same layer in Haar-random orthonormal bases.

    A randomisation test: for a layer whose law no rotation changes, p is uniform on 1/(R + 1), ..., 1. It counts how many of
    all R + 1 bases lie at least as far from the mean of all as the natural one.

    Args:
        activations: (N, D).
        labels: (N,).
        k: how many top images of each direction are looked at.
        rotations: R.
        seed: of the draws.
    """
    draws, width = np.random.default_rng(seed), activations.shape[1]

    def seen(basis: np.ndarray) -> float:
        return float(purity(labels[top(basis, activations, k)]).mean())

    value = seen(np.eye(width, dtype=activations.dtype))
    rotated = np.array([seen(haar(width, draws).astype(activations.dtype)) for _ in range(rotations)])
    everyone = np.append(rotated, value)
    away = np.abs(everyone - everyone.mean())
    spread = float(rotated.std(ddof=1)) if rotations > 1 else 0.0
    z = (value - float(rotated.mean())) / spread if spread > 0 else 0.0
    # Sums of k-ths differ in the last bits alone where they are equal.
    return Rotation(value, rotated, z, float((away >= away[-1] - 1e-12).mean()))


def effect(
    ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0, repeats: int = 1000, confidence: float = 0.95
) -> Interval:
    """P(ours > theirs) + P(equal) / 2 over all pairs, 0.5 where neither is larger, with a bootstrap interval over both.

    Args:
        ours, theirs: (n,) and (m,); n counts in the interval.
        seed: of the resamples.
        repeats: how many.
        confidence: of the interval.
    """
    above = (ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)
    draws = np.random.default_rng(seed)
    first, second = (draws.multinomial(size, np.full(size, 1 / size), repeats) / size for size in above.shape)
    low, high = np.quantile((first @ above * second).sum(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(above.mean()), len(ours), float(low), float(high))


def haar(width: int, draws: np.random.Generator) -> np.ndarray:
    """A rotation or reflection drawn from Haar's measure, (D, D).

    Source: Mezzadri, "How to generate random matrices from the classical compact groups" (Notices of the AMS 2007).
    """
    q, r = np.linalg.qr(draws.standard_normal((width, width)))
    return q * np.sign(np.diagonal(r))


def isotropic(width: int, count: int, draws: np.random.Generator) -> np.ndarray:
    """Directions drawn evenly from the sphere, (count, D)."""
    found = draws.standard_normal((count, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def whitened(activations: np.ndarray, count: int, draws: np.random.Generator) -> np.ndarray:
    """Directions that are isotropic once the activations (N, D) are made white: unit vectors, (count, D).

    Axes whose variance is no more than the rounding of float32 are left out.
    """
    variances, axes = _principal(activations)
    scaled = axes / np.sqrt(variances)[:, None]
    found = isotropic(len(scaled), count, draws) @ scaled
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def principal(activations: np.ndarray) -> np.ndarray:
    """The principal axes of the activations (N, D) that hold 95 % of the variance, each in both senses, (2 A, D)."""
    variances, axes = _principal(activations)
    held = np.cumsum(variances) / variances.sum()
    few = axes[: int(np.searchsorted(held, VARIANCE)) + 1]
    return np.concatenate([few, -few])


def _principal(activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances, largest first, (A,), and their axes (A, D)."""
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(activations.astype(np.float64), rowvar=False)))
    keep = variances > len(variances) * np.finfo(np.float32).eps * variances.max()
    return variances[keep][::-1], axes.T[keep][::-1]


def _counts(labels: np.ndarray) -> np.ndarray:
    """How often each of the labels that occur stands in each row of (M, k): (M, K)."""
    return (labels[:, :, None] == np.unique(labels)).sum(1)


def _most(labels: np.ndarray, classes: int) -> float:
    return float(np.log(max(2, min(labels.shape[1], classes))))
