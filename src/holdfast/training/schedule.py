"""Learning rates as a share of the largest, over the share of the steps that are done."""

from __future__ import annotations

import math

_RISE = 0.3
"""The share of ``one_cycle`` in which the rate rises."""

_DROPS = ((0.9, 0.01), (0.75, 0.1))
"""``piecewise``: from which share of the steps on, what is left of the rate."""


def rate(schedule: str, done: float) -> float:
    """The learning rate after a share ``done``, 0 to 1, of all steps, as a share of the largest.

    ``cosine`` falls along half a cosine to 0; ``one_cycle`` rises along a line for 30 % of the steps and falls along another
    (the cyclic rate of Wong, Rice and Kolter, ICLR 2020); ``piecewise`` drops to a tenth after 75 % and to a hundredth after
    90 % (the steps of Rice, Wong and Kolter, ICML 2020, as shares); ``constant`` stays.
    """
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if schedule == "one_cycle":
        return done / _RISE if done < _RISE else (1 - done) / (1 - _RISE)
    if schedule == "piecewise":
        return next((left for start, left in _DROPS if done >= start), 1.0)
    return 1.0
