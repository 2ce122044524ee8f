"""How well a score tells attacked images from clean ones, and what a classifier is worth that rejects by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval, clopper_pearson
from holdfast.probes.clustered import share

Scores = np.ndarray | Sequence[float]
"""(n,) of n images, or (n, m) of m evaluations of each; larger = more suspicious."""


@dataclass(frozen=True)
class ROC:
    """The shares of clean images (``false_alarms``) and of attacked ones (``detected``) with scores of at least each of
    ``thresholds``, which fall from infinity through all scores that occur; (t,) float64 each."""

    thresholds: np.ndarray
    false_alarms: np.ndarray
    detected: np.ndarray


def roc(clean: Scores, attacked: Scores) -> ROC:
    """The curve of two samples of scores. All evaluations count alike.

    Raises:
        BadValue: a sample without a score, or scores that are NaN.
    """
    negative, positive = (np.sort(_checked(each).ravel()) for each in (clean, attacked))
    levels = np.append(np.inf, np.unique(np.append(negative, positive))[::-1])
    below = [np.searchsorted(each, levels) / len(each) for each in (negative, positive)]
    return ROC(levels, 1 - below[0], 1 - below[1])


def auc(
    clean: Scores,
    attacked: Scores,
    *,
    clean_ids: np.ndarray | Sequence[int] | None = None,
    attacked_ids: np.ndarray | Sequence[int] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """The probability that an attacked image scores higher than a clean one, ties counted half, with an interval.

    An image and its attacked version, and evaluations of one image, are no independent samples: the variance is that of
    clusters.

    Args:
        clean, attacked: the scores.
        clean_ids, attacked_ids: which image each row stems from, (n,) integers; unless given, row i of both from image i.
        confidence: of the interval, on the scale of log(A / (1 - A)). Where every attacked image scores higher than every
            clean one, or lower, there is no variance: then the interval is the exact one of as many disjoint pairs of
            images as there are. Where all scores tie, or a sample is of one image, it is [0, 1].

    Sources: Obuchowski, "Nonparametric analysis of clustered ROC curve data" (Biometrics 1997); with one score for each
    of different images it is DeLong, DeLong and Clarke-Pearson (Biometrics 1988). By ranks: Sun and Xu (IEEE Signal
    Processing Letters 2014).

    Raises:
        BadValue: as `roc`; ids that do not fit, or none for samples of different lengths.
    """
    from scipy.special import expit, logit
    from scipy.stats import rankdata

    if not 0 < confidence < 1:
        raise BadValue(f"the confidence is {confidence}; it must lie between 0 and 1", hint="0.95 is the usual one")
    negative, positive = _checked(clean), _checked(attacked)
    if clean_ids is None and attacked_ids is None and len(negative) != len(positive):
        raise BadValue(
            f"{len(negative)} clean and {len(positive)} attacked images cannot be paired",
            hint="give clean_ids and attacked_ids: which image each row stems from",
        )
    own = [_rows(negative, clean_ids), _rows(positive, attacked_ids)]
    places, cluster = np.unique(np.concatenate(own), return_inverse=True)
    x, y = negative.ravel(), positive.ravel()
    ranks = rankdata(np.concatenate([x, y]))
    # The share of the other sample that each score beats: the structural components.
    under = 1 - (ranks[: len(x)] - rankdata(x)) / len(y)
    over = (ranks[len(x) :] - rankdata(y)) / len(x)
    value, size = float(over.mean()), len(places)
    a = np.bincount(cluster[: len(x)], (under - value) / len(x), size)
    b = np.bincount(cluster[len(x) :], (over - value) / len(y), size)
    counts = [len(np.unique(each)) for each in own]
    low, high = 0.0, 1.0
    if value in (0.0, 1.0):
        pairs = min(*counts, size // 2)
        exact = clopper_pearson(pairs if value else 0, pairs, confidence)
        low, high = exact.low, exact.high
    elif min(counts) > 1:
        variance = sum(_corrected(float((each**2).sum()), count) for each, count in zip((a, b), counts))
        variance += 2 * _corrected(float((a * b).sum()), size)
        if variance > 0:
            half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance) / (value * (1 - value))
            low, high = (float(expit(logit(value) + side * half)) for side in (-1, 1))
    return Interval(value, size, min(low, value), max(high, value))


@dataclass(frozen=True)
class Detection:
    """A score at work.

    Args:
        auc: see `auc`.
        false_alarms: the share of clean images that reach the threshold: hold it against the rate that it was set for.
        detected: the share of attacked images that reach it.
    """

    auc: Interval
    false_alarms: Interval
    detected: Interval

    @property
    def verdict(self) -> str:
        """What the interval of the AUC shows."""
        if self.auc.low > 0.5:
            return "attacked images score higher"
        if self.auc.high < 0.5:
            return "inverted: attacked images score lower"
        return "no better than chance"


def detection(
    clean: Scores,
    attacked: Scores,
    threshold: float,
    *,
    clean_ids: np.ndarray | Sequence[int] | None = None,
    attacked_ids: np.ndarray | Sequence[int] | None = None,
    confidence: float = 0.95,
) -> Detection:
    """The figures of two samples of scores, with intervals clustered over images.

    Args:
        clean, attacked, clean_ids, attacked_ids: as for `auc`. Of the attacked images take those that fool the classifier:
            the others need no detection, and look as they are.
        threshold: scores of at least so much are rejected.
        confidence: of the intervals: Wilson's for shares, Student's where evaluations of an image differ.
    """
    return Detection(
        auc(clean, attacked, clean_ids=clean_ids, attacked_ids=attacked_ids, confidence=confidence),
        *(share(_checked(each) >= threshold, confidence) for each in (clean, attacked)),
    )


@dataclass(frozen=True)
class WithRejection:
    """Accuracies of a classifier that may reject.

    Args:
        clean: accepted and right, of the clean images.
        attacked: rejected or right, of the attacked ones. Rejecting everything would make it 1.
        robust: both: the clean image is accepted and right, the attacked one rejected or right. Only this figure compares
            with the robust accuracy of a classifier that rejects nothing. Tramer, "Detecting adversarial examples is
            (nearly) as hard as classifying them" (ICML 2022): a detector that has it at a radius gives a
            classifier that has it at half the radius, so that a figure above all known ones there asks for a better attack.
    """

    clean: Interval
    attacked: Interval
    robust: Interval


def with_rejection(served: np.ndarray, safe: np.ndarray, *, confidence: float = 0.95) -> WithRejection:
    """The accuracies, with intervals clustered over images.

    Args:
        served: (n, m) bool, whether m evaluations of the clean images accept them and are right.
        safe: (n, m) bool, whether m evaluations of their attacked versions reject them or are right.
        confidence: of the intervals, as for `detection`.

    Raises:
        BadValue: different images.
    """
    served, safe = np.asarray(served), np.asarray(safe)
    if served.ndim != 2 or safe.ndim != 2 or len(served) != len(safe):
        raise BadValue(f"outcomes are {served.shape} and {safe.shape}", hint="give (n, m) of the same n images")
    both = served.mean(1) * safe.mean(1)  # the draws for the two images are independent
    return WithRejection(share(served, confidence), share(safe, confidence), share(both, confidence))


def _checked(scores: Scores) -> np.ndarray:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim not in (1, 2) or not found.size or np.isnan(found).any():
        raise BadValue(f"the scores have shape {found.shape}", hint="give (n,) or (n, m) numbers, at least one, no NaN")
    return found


def _rows(scores: np.ndarray, ids: np.ndarray | Sequence[int] | None) -> np.ndarray:
    """The image of every single score."""
    own = np.arange(len(scores)) if ids is None else np.asarray(ids)
    if own.shape != scores.shape[:1]:
        raise BadValue(f"ids are {own.shape} for scores {scores.shape}", hint="give one integer for each row")
    return np.repeat(own, scores[0].size)


def _corrected(total: float, count: int) -> float:
    return total * count / (count - 1)
