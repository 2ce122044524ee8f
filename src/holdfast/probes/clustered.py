"""The mean over images of a figure that each image has, with an interval: the images are the clusters."""

from __future__ import annotations

import math

import numpy as np

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval, wilson


def clustered(
    values: np.ndarray, *, confidence: float = 0.95, least: float = -math.inf, most: float = math.inf
) -> Interval:
    """Student's interval of the mean of ``values`` (n,), one of each image, cut to [least, most].

    Whatever was drawn for an image is inside its value: draws of one image are no independent images. With fewer than two
    images nothing is known, and the interval is [least, most].

    Raises:
        BadValue: a confidence outside (0, 1).
    """
    from scipy.special import stdtrit

    if not 0 < confidence < 1:
        raise BadValue(f"the confidence is {confidence}; it must lie between 0 and 1", hint="0.95 is the usual one")
    n = len(values)
    if n < 2:
        return Interval(float(values[0]) if n else math.nan, n, least, most)
    mean = float(np.mean(values))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, n, max(least, min(mean, mean - half)), min(most, max(mean, mean + half)))


def share(each: np.ndarray, confidence: float) -> Interval:
    """The mean over images of what each has, truths or shares of 0 to 1, (n,) or (n, m)."""
    values = each.reshape(len(each), -1).mean(1)
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), len(values), confidence)
    return clustered(values, confidence=confidence, least=0.0, most=1.0)
