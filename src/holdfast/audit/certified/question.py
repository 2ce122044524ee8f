"""What is asked of a smoothed classifier, and what so many draws can answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from holdfast.defences.certificate import FURTHEST, radius_of
from holdfast.defences.evidence import evidence
from holdfast.defences.options import whole
from holdfast.foundation.errors import BadValue

STEPS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
"""Widths of a grid of radii, times a power of ten."""
MOST = 2**50
"""Draws that nobody makes, and beyond which the bounds are rounded to 1."""


@dataclass(frozen=True)
class Pursuit:
    """The attack on the smoothed classifier, at each radius.

    Args:
        steps: of a search; one on the model alone takes five times as many.
        restarts: runs of a search, each with other draws and from the best point so far.
        draws: noisy copies that a gradient is averaged over.
        predict: draws of the answer at a final point.
    """

    steps: int = 20
    restarts: int = 1
    draws: int = 20
    predict: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "draws", "predict"):
            whole(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        sigma: the noise's standard deviation, in pixel values in [0, 1].
        select, estimate, alpha: see `holdfast.defences.certificate.certify`.
        radii: L2, ascending; 0 is always among them. Unless given, about six up to just beyond the largest that so many
            draws can certify.
        early_stop: stop drawing for an image as soon as it is decided which of the radii it reaches.
        attack: None: certificates alone.
        seed: of every draw.

    Raises:
        BadValue: a number outside its range; draws that could certify nothing of what is asked.
    """

    sigma: float
    select: int = 100
    estimate: int = 10_000
    alpha: float = 0.001
    radii: tuple[float, ...] = ()
    early_stop: bool = False
    attack: Pursuit | None = Pursuit()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise BadValue(f"sigma is {self.sigma}; it must be above 0, and finite", hint="for example --sigma 0.25")
        if not 0 < self.alpha < 0.5:
            raise BadValue(f"alpha is {self.alpha}; it must lie between 0 and 1/2", hint="for example --alpha 0.001")
        whole("select", self.select, 1)
        whole("estimate", self.estimate, 1)
        given = self.radii
        if given and not (given[0] >= 0 and all(low < high for low, high in zip(given, (*given[1:], math.inf)))):
            raise BadValue(
                f"radii are {list(given)}; they must increase from 0 or more", hint="for example --radii 0 0.25 0.5"
            )
        least = next((radius for radius in given if radius > 0), 0.0)
        if self.largest < least or math.isnan(self.largest):
            raise BadValue(
                f"estimate is {self.estimate}: so many draws certify {self._most} at alpha {self.alpha:g}",
                hint=_hint(fewest(least, self), least, self),
            )
        if self.attack and 0.5 ** (self.attack.predict - 1) > self.alpha:
            enough = 1 + math.ceil(math.log2(1 / self.alpha))
            raise BadValue(
                f"predict is {self.attack.predict}: from so few draws every answer is an abstention at alpha {self.alpha:g}",
                hint=f"{enough} is the smallest useful number, 1000 the usual one",
            )
        object.__setattr__(self, "radii", tuple(sorted({0.0, *(given or grid(self.largest))})))

    @property
    def largest(self) -> float:
        """The largest radius that any image can get, of ``radii`` where drawing stops early; NaN: none."""
        if self.early_stop and self.radii:
            return max((radius for radius in (0.0, *self.radii) if self._decidable(radius)), default=math.nan)
        if self.early_stop:
            return self.sigma * _last(lambda far: self._decidable(far * self.sigma))
        return radius_of(self.estimate, self.estimate, sigma=self.sigma, alpha=self.alpha)

    @property
    def decided(self) -> tuple[float, ...]:
        """The radii between which drawing decides where it stops early: a further one would be drawn for in vain."""
        return tuple(radius for radius in self.radii if self._decidable(radius)) if self.early_stop else ()

    @property
    def _most(self) -> str:
        return "nothing" if math.isnan(self.largest) else f"a radius of {self.largest:.3g} at most"

    def _decidable(self, radius: float) -> bool:
        return radius < FURTHEST * self.sigma and _shown(self.estimate, radius, self)


def fewest(radius: float, asked: Question) -> int | None:
    """How many draws, all of one class, certify that radius; None: no number of draws shows so much."""
    if radius >= FURTHEST * asked.sigma:
        return None
    high = 1
    while not _shown(high, radius, asked):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shown(middle, radius, asked) else (middle, high)
    return high


def grid(largest: float) -> tuple[float, ...]:
    """Six to eight even radii from 0 to the first one that is larger than ``largest``, which is at least 0."""
    rough = max(largest, 1e-6) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))
    count = math.floor(largest / width + 1e-9) + 1
    return tuple(float(f"{place * width:.10g}") for place in range(count + 1))


def _shown(draws: int, radius: float, asked: Question) -> bool:
    """Whether so many draws, all of one class, certify the radius."""
    if asked.early_stop:
        p = 0.5 * math.erfc(-radius / asked.sigma / math.sqrt(2))
        return float(evidence(np.array(draws), draws, p)) >= -math.log(asked.alpha)
    return radius_of(draws, draws, sigma=asked.sigma, alpha=asked.alpha) >= radius


def _last(holds: Callable[[float], bool]) -> float:
    """The largest number in [0, `FURTHEST`] for which it holds, to 1e-6; NaN if it does not at 0."""
    if not holds(0.0):
        return math.nan
    low, high = 0.0, float(FURTHEST)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _hint(enough: int | None, radius: float, asked: Question) -> str:
    if enough is None:
        return f"no number of draws shows {radius:g} at sigma {asked.sigma:g}: give smaller radii, or a larger sigma"
    what = f"certifies the radius {radius:g}" if radius else "certifies anything"
    return f"{enough} is the smallest number that {what}; --estimate 10000 is usual"
