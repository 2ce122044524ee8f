"""Adversarial training of a linear classifier, solved exactly: a convex problem without an attack in it.

The worst point of an Linf ball, cut by a box, takes each input to one of two ends that depend on the signs of its weight and
of the label alone. With the weights split as u - v, u and v >= 0, the worst margin is linear in (u, v): logistic regression
with non-negative weights. The sparseness of its solution is no rounding.

Source: Tsipras et al. (ICLR 2019), section 2.2 and appendix (linear classifiers, 5 against 7). The split is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.foundation.errors import BadData
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes.odds import Linear


@dataclass(frozen=True, eq=False)
class Reach:
    """What an adversary can make of inputs: anything from ``low`` to ``high``, (n, k) each; ``y`` (n,) are -1 or 1."""

    low: np.ndarray
    high: np.ndarray
    y: np.ndarray

    def ends(self) -> np.ndarray:
        """(n, 2 k): what u and v are multiplied by in the worst margin."""
        up = self.y[:, None] > 0
        return np.concatenate([np.where(up, self.low, -self.high), np.where(up, -self.high, self.low)], 1)


def linf(x: np.ndarray, y: np.ndarray, eps: float, *, box: tuple[float, float] = (-np.inf, np.inf)) -> Reach:
    """The reach of Linf of radius ``eps`` inside a box.

    Args:
        x: (n, k) inputs.
        y: (n,) labels, -1 or 1.
        box: what inputs may be; images have (0, 1).
    """
    x = np.asarray(x, dtype=np.float64)
    return Reach(np.clip(x - eps, *box), np.clip(x + eps, *box), np.asarray(y, dtype=np.float64))


def fit(reach: Reach, *, bias: bool = True, decay: float = 1e-4, iterations: int = 1000) -> Linear:
    """The linear classifier of the least mean logistic loss at the worst points, plus decay / 2 times |w|^2.

    Args:
        bias: whether b is fitted; 0 otherwise, as suits a population that is its own mirror image.
        decay: above 0, so that separable data have one solution.
        iterations: of L-BFGS-B, at most.

    Raises:
        BadData: one of the two classes is missing.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if not (reach.y > 0).any() or not (reach.y < 0).any():
        raise BadData(f"all {len(reach.y)} labels are of one class", hint="give inputs of both classes")
    ends, y = reach.ends(), reach.y

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        margin = ends @ at[:-1] + y * at[-1]
        pulled = -expit(-margin) / len(y)
        value = float(np.logaddexp(0, -margin).mean()) + decay / 2 * float(at[:-1] @ at[:-1])
        return value, np.r_[pulled @ ends + decay * at[:-1], pulled @ y]

    wide = ends.shape[1]
    found = minimize(
        loss,
        np.zeros(wide + 1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * wide + [(None, None) if bias else (0, 0)],
        options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-10, "gtol": 1e-7},
    )
    u, v = np.split(found.x[:-1], 2)
    return Linear(u - v, float(found.x[-1]))


def robust(classifier: Linear, reach: Reach) -> Interval:
    """The share of rows that no point in reach turns wrong, exact for each row, with Wilson's interval."""
    w = classifier.w
    margin = reach.ends() @ np.r_[np.maximum(w, 0), np.maximum(-w, 0)] + reach.y * classifier.b
    return wilson(int((margin > 0).sum()), len(margin))


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The magnitude of every input's correlation with the label, (k,) in [0, 1]; 0 for inputs that never change."""
    centred, signs = x - x.mean(0), y - y.mean()
    size = np.sqrt((centred**2).sum(0) * float((signs**2).sum()))
    return np.abs(np.divide(signs @ centred, size, out=np.zeros(x.shape[1]), where=size > 0))


def weight_below(classifier: Linear, correlation: np.ndarray, level: float) -> float:
    """The share of |w|_1 that lies on inputs whose correlation is below ``level``, in [0, 1]; 0 without any weight."""
    size = np.abs(classifier.w)
    return float(size[correlation < level].sum() / size.sum()) if size.any() else 0.0
