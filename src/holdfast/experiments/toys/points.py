"""The points: boxes, moons and circles, all in the unit square."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from holdfast.data.fingerprint import digest, of_array
from holdfast.experiments.toys.settings import Toys
from holdfast.foundation.errors import BadValue

TRIES = 10_000
"""Draws of one point of boxes, before there is no room for it."""


@dataclass(frozen=True, eq=False)
class Toy:
    """Points of two classes whose squares of half side ``eps`` lie in the unit square.

    Args:
        name: of the toy; ``stated``: how it was drawn, in words.
        eps: Linf, in units of the unit square.
        x, y: what nets are trained on, (n, 2) float64 in [0, 1] and (n,) int64, 0 or 1.
        judged_x, judged_y: what they are judged on, likewise.
    """

    name: str
    stated: str
    eps: float
    x: np.ndarray
    y: np.ndarray
    judged_x: np.ndarray
    judged_y: np.ndarray

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when any point does."""
        return digest(*map(of_array, (self.x, self.y, self.judged_x, self.judged_y)))

    @property
    def ceiling(self) -> int:
        """How many of the judged points any classifier at all can be right on throughout their squares, at most.

        Where squares of two classes meet, one of the two points is lost: the losses are a vertex cover of the graph of such
        pairs, and in a bipartite graph the smallest has as many vertices as the largest matching has edges (König).

        Source: Bhagoji, Cullina and Mittal, "Lower bounds on adversarial robustness from optimal transport" (NeurIPS 2019),
        here for points instead of distributions.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_bipartite_matching

        one, other = (self.judged_x[self.judged_y == label] for label in (0, 1))
        meeting = np.abs(one[:, None] - other[None]).max(2) <= 2 * self.eps
        return len(self.judged_x) - int((maximum_bipartite_matching(csr_array(meeting), perm_type="column") >= 0).sum())


def boxes(asked: Toys) -> Toy:
    """Uniform points, drawn one after the other, each of them far enough from all before it; the classes alternate.

    Source: Wong and Kolter, "Provable defenses against adversarial examples via the convex outer adversarial polytope" (ICML
    2018), the example in two dimensions. Departures: the number of points, the radius and the gap.

    Raises:
        BadValue: there is no room for so many.
    """
    eps, apart = asked.boxes_eps, asked.gap * asked.boxes_eps
    draws = np.random.default_rng(asked.seed)
    x = np.empty((0, 2))
    while len(x) < asked.points:
        tried = draws.uniform(eps, 1 - eps, (TRIES, 2))
        free = (np.abs(tried[:, None] - x).max(2) >= apart).all(1)
        if not free.any():
            raise BadValue(
                f"points is {asked.points}; after {len(x)} of them none was found that is {apart:.3g} from all",
                hint="give fewer points, or a smaller boxes_eps",
            )
        x = np.vstack([x, tried[free.argmax()]])
    y = np.arange(len(x)) % 2
    stated = (
        f"{len(x)} uniform points, trained on and judged, any two at least {apart:.3g} apart in Linf; eps {eps:.4g}"
    )
    return Toy("boxes", stated, eps, x, y, x, y)


def moons(asked: Toys) -> Toy:
    """scikit-learn's two half moons."""
    from sklearn.datasets import make_moons

    return _drawn(asked, "moons", make_moons, asked.moons_eps)


def circles(asked: Toys) -> Toy:
    """scikit-learn's two circles, one half as wide as the other."""
    from sklearn.datasets import make_circles

    return _drawn(
        asked, "circles", lambda *given, **named: make_circles(*given, factor=0.5, **named), asked.circles_eps
    )


TOYS = (boxes, moons, circles)


def _drawn(asked: Toys, name: str, make: Callable[..., tuple[np.ndarray, np.ndarray]], eps: float) -> Toy:
    """Points in the unit square: the smallest upright square around all of theirs is moved and shrunk onto it."""
    x, y = make(asked.rows + asked.judged, noise=asked.noise, random_state=asked.seed)
    low, high = x.min(0) - eps, x.max(0) + eps
    side = float((high - low).max())
    x = (x - (low + high) / 2) / side + 0.5
    stated = (
        f"{asked.rows} points to train on and {asked.judged} others judged, noise {asked.noise:g}, drawn in a square of "
        f"side {side:.4g} that became the unit square; eps {eps:g} there, so {eps / side:.4g} here"
    )
    cut = asked.rows
    return Toy(name, stated, eps / side, x[:cut], y[:cut], x[cut:], y[cut:])
