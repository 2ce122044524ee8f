"""From which score on a detector speaks: a threshold for a stated rate of false alarms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval


@dataclass(frozen=True)
class Threshold:
    """Scores of at least ``value`` are flagged.

    ``wanted`` is the rate of false alarms that it was set for; ``rate`` the share of the calibration images that it flags,
    with the interval of the rate on images like them.
    """

    value: float
    wanted: float
    rate: Interval


def threshold(
    scores: np.ndarray | Sequence[float], *, false_alarms: float = 0.05, confidence: float = 0.95
) -> Threshold:
    """The lowest threshold that flags a new clean image with a probability of at most ``false_alarms``.

    Args:
        scores: (n,) of held-out clean images, larger for what looks more like an attack. Images on which nothing else was
            chosen: neither the weights nor another parameter.
        false_alarms: in (0, 1).
        confidence: of the interval.

    Source: the split conformal quantile (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005): the
    ceil((n + 1)(1 - false_alarms))-th smallest score is the last that is not flagged. Over the draw of the calibration
    images the rate of the threshold has a Beta distribution, whose quantiles are the interval; where scores tie, that is
    too high.

    Raises:
        BadValue: scores that are not finite or too few, or a rate outside (0, 1).
    """
    from scipy.special import betaincinv

    found = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(found)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise BadValue(f"the scores have shape {found.shape} and must be (n,) and finite", hint="drop NaN and inf")
    for what, given in (("false_alarms", false_alarms), ("confidence", confidence)):
        if not 0 < given < 1:
            raise BadValue(f"{what} is {given}; it must lie between 0 and 1", hint=f"for example {what}=0.05")
    last = math.ceil((n + 1) * (1 - false_alarms) - 1e-9)
    if last > n:
        least = math.ceil(1 / false_alarms - 1 - 1e-9)
        raise BadValue(
            f"{n} images cannot show a false-alarm rate of {false_alarms:g}", hint=f"give at least {least} clean images"
        )
    value = float(np.nextafter(found[last - 1], np.inf))
    flagged = int((found >= value).sum())
    tail = (1 - confidence) / 2
    low, high = (float(betaincinv(n + 1 - last, last, share)) for share in (tail, 1 - tail))
    share = flagged / n
    return Threshold(value, false_alarms, Interval(share, n, min(low, share), max(high, share)))
