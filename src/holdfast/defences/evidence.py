"""Evidence about a probability that may be looked at after every draw."""

from __future__ import annotations

import math

import numpy as np


def evidence(successes: np.ndarray, n: int, p: float) -> np.ndarray:
    """The logarithm of what a bet against "the probability is at most ``p``" has grown to, any shape, float64.

    It begins at 1 and is a supermartingale if the claim is true, so that it ever reaches 1 / alpha with a probability of at
    most alpha (Ville 1939): the claim may be rejected as soon as it does, however often it was looked at.

    Sources: Robbins, "Statistical methods related to the law of the iterated logarithm" (1970), for mixtures of likelihood
    ratios; Voracek, "Treatment of statistical estimation problems in randomized smoothing for adversarial robustness"
    (NeurIPS 2024), for their use here, with the Beta(1/2, 1/2) mixture of Krichevsky and Trofimov (1981). Departure: only
    probabilities above ``p`` are mixed, since only they are bet on: it rejects earlier, at the same guarantee, and the ratio
    of any of them is a supermartingale under every smaller probability.

    Args:
        successes: how many of the ``n`` draws succeeded, in [0, n].
        n: how many draws there are.
        p: in (0, 1).
    """
    from scipy.special import betaincc, betaln

    a = np.asarray(successes, dtype=np.float64)
    b = n - a
    with np.errstate(divide="ignore"):  # nothing above p is left of the mixture: no evidence at all
        above = np.log(betaincc(a + 0.5, b + 0.5, p))
    prior = math.log(betaincc(0.5, 0.5, p)) + betaln(0.5, 0.5)
    return betaln(a + 0.5, b + 0.5) + above - prior - a * math.log(p) - b * math.log1p(-p)
