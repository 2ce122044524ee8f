"""Who enters a stage: rules over what the stages before it saw, as pure functions of the records.

A rule that is a function of records gives the same answer in a run that was killed and resumed, and a reader of the run can
check why a sample was, or was not, searched further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

MASKED = frozenset({"zero gradients", "dishonest gradients"})
"""The findings after which no margin that gradients reached says how far a sample is from falling."""

CURVED = frozenset({"curved loss"})
"""Those after which it says less than it should."""

_TINY = 1e-12


@dataclass(frozen=True)
class Past:
    """What is known when a stage begins, for the N samples that are classified correctly, by ascending id.

    Args:
        ids: the samples, (N,) int64.
        alive: whether nothing has broken them within the stage's radius, (N,) bool.
        clean: ``z_y - max_{k != y} z_k`` on the clean image, (N,).
        seen: stage name -> the smallest such margin that it met, (N,), NaN where the sample did not enter; in order.
        seed: of the run.
        doubts: the names of the findings that were made before the run.
    """

    ids: np.ndarray
    alive: np.ndarray
    clean: np.ndarray
    seen: dict[str, np.ndarray]
    seed: int
    doubts: frozenset[str]

    def best(self, before: str | None = None) -> np.ndarray:
        """The smallest margin of each sample over the stages up to the one named, which is left out, (N,)."""
        best = self.clean
        for name, margin in self.seen.items():
            if name == before:
                break
            best = np.fmin(best, margin)
        return best

    def need(self, best: np.ndarray) -> np.ndarray:
        """What is left of a margin, in units of what was taken off it, (N,)."""
        return best / np.maximum(self.clean - best, _TINY)

    def share(self, who: np.ndarray) -> float:
        """The share of ``who``, (N,) bool, among those left; 0 where none is."""
        return float(who[self.alive].mean()) if self.alive.any() else 0.0

    def only(self, which: np.ndarray) -> Past:
        """What is known of some of the samples, ``which`` (N,) bool."""
        seen = {name: margin[which] for name, margin in self.seen.items()}
        return Past(self.ids[which], self.alive[which], self.clean[which], seen, self.seed, self.doubts)


class Entry(Protocol):
    """A rule: a frozen dataclass of plain values."""

    def __call__(self, past: Past) -> np.ndarray:
        """Who enters, (N,) bool."""
        ...

    def typical(self, n: float) -> float:
        """How many of n who are left usually enter: an estimate, for times only."""
        ...


@dataclass(frozen=True)
class Everyone:
    """Everyone who is left."""

    def __call__(self, past: Past) -> np.ndarray:
        return past.alive

    def typical(self, n: float) -> float:
        return n


@dataclass(frozen=True)
class Whole:
    """Everyone, fallen or not: for minimal attacks, which may find a nearer point than the one before."""

    def __call__(self, past: Past) -> np.ndarray:
        return np.ones(len(past.ids), dtype=bool)

    def typical(self, n: float) -> float:
        return n


NEAR = 0.15
"""Which share of those left usually is near falling."""
FIRST_REACH = 0.45
"""With how much reach `Near` usually begins: 0.35 to 0.5 on a net of digits, three radii. Then it falls as it may."""


@dataclass(frozen=True)
class Near:
    """Those that another search of this kind can be hoped to reach.

    A stage's gain of a sample is what it took off its margin, in units of all that was taken off by then. If no sample
    gained more than g in the last stage, one that needs many times g is hopeless. The reach is ``factor`` times the largest
    gain (above 200 samples: the 99th percentile), and falls to ``decay`` of itself per stage at the fastest; who needs more
    stays out. The first stage does not count: it begins at the clean image, so that its gain is the whole.

    Args:
        factor: reach in units of the largest gain.
        decay: the least share of the reach that is kept from stage to stage.
        floor: the least reach.
    """

    factor: float = 2.0
    decay: float = 0.7
    floor: float = 0.05

    def __call__(self, past: Past) -> np.ndarray:
        return self.within(past, self._reach(past))

    def within(self, past: Past, reach: float) -> np.ndarray:
        """Those left who need at most ``reach``, or the floor, (N,) bool."""
        return past.alive & (past.need(past.best()) <= max(reach, self.floor))

    def _reach(self, past: Past) -> float:
        best, reach = past.clean, 0.0
        for place, margin in enumerate(past.seen.values()):
            after = np.fmin(best, margin)
            entered = ~np.isnan(margin)
            if place and entered.any():
                gain = ((best - after) / np.maximum(past.clean - after, _TINY))[entered]
                largest = gain.max() if len(gain) <= 200 else np.quantile(gain, 0.99)
                reach = max(self.factor * float(largest), self.decay * reach)
            best = after
        return reach

    def typical(self, n: float) -> float:
        return NEAR * n

    def reach_after(self, past: Past, between: int) -> float:
        """The need up to which samples are likely to enter when ``between`` more stages of this rule have run."""
        return (self._reach(past) or FIRST_REACH) * self.decay**between

    def usual_reach(self, earlier: int) -> float:
        """The need up to which samples usually enter after so many stages of this rule: an estimate, for times only."""
        return max(self.floor, FIRST_REACH * self.decay**earlier)


@dataclass(frozen=True)
class Sampled:
    """A few of those left, for a check: half of them the nearest to falling, half drawn by the run's seed.

    Args:
        share: of those left; ``least``, ``most``: bounds of the number.
    """

    share: float
    least: int
    most: int

    def __call__(self, past: Past) -> np.ndarray:
        left = past.alive.nonzero()[0]
        count = min(self.most, max(self.least, int(self.share * len(left))), len(left))
        nearest = left[np.argsort(past.need(past.best())[left], kind="stable")][: (count + 1) // 2]
        others = np.setdiff1d(left, nearest)
        drawn = np.random.default_rng([past.seed, len(left)]).permutation(others)[: count - len(nearest)]
        chosen = np.zeros(len(past.ids), dtype=bool)
        chosen[nearest] = chosen[drawn] = True
        return chosen

    def typical(self, n: float) -> float:
        return min(self.most, max(self.least, self.share * n), n)


@dataclass(frozen=True)
class Escalated:
    """No one, unless a check raises an alarm; then those within ``need``, or everyone left if gradients are known to lie.

    Alarms are: the check's attack, which uses no gradients, fooled a sample, got below the gradients' margin on a sample, or
    took off more than ``ratio`` of what the gradients took off in the median; or the loss is `CURVED`. Gradients lie if the
    findings made before the run say so (`MASKED`).

    Args:
        check: the name of the stage that checked.
        ratio: of what Square takes off a margin to what gradients take off.
        need: who enters if only the check raised the alarm.
    """

    check: str
    ratio: float = 0.75
    need: float = 0.4

    def __call__(self, past: Past) -> np.ndarray:
        if past.doubts & MASKED:
            return past.alive
        if not self.alarms(past) and not past.doubts & CURVED:
            return np.zeros(len(past.ids), dtype=bool)
        return self.near(past)

    def near(self, past: Past) -> np.ndarray:
        """Who enters if only the check raises an alarm, (N,) bool."""
        return past.alive & (past.need(past.best()) <= self.need)

    def typical(self, n: float) -> float:
        return 0

    def alarms(self, past: Past) -> tuple[str, ...]:
        """What the check saw, in words; nothing if it saw nothing, or did not run."""
        margin = past.seen.get(self.check, np.full(len(past.ids), np.nan))
        entered = ~np.isnan(margin)
        if not entered.any():
            return ()
        gradients = past.best(before=self.check)[entered]
        clean, found = past.clean[entered], margin[entered]
        ratio = float(np.median((clean - found) / np.maximum(clean - gradients, _TINY)))
        alarms = []
        if (fooled := int((found < 0).sum())) > 0:
            alarms.append(f"it fooled {fooled} of {len(found)} samples that gradients did not")
        if (below := int((found < gradients).sum())) > fooled:
            alarms.append(f"it got below the gradients' margin on {below} of {len(found)} samples")
        if ratio > self.ratio:
            alarms.append(f"in the median it took {ratio:.0%} as much off the margin as the gradients did")
        return tuple(alarms)


@dataclass(frozen=True)
class Drawn:
    """``count`` of those left, drawn by the run's seed: what is found on them holds for all, with an interval."""

    count: int

    def __call__(self, past: Past) -> np.ndarray:
        chosen = np.zeros(len(past.ids), dtype=bool)
        left = past.alive.nonzero()[0]
        chosen[np.random.default_rng([past.seed, past.ids.sum() % 2**31]).permutation(left)[: self.count]] = True
        return chosen

    def typical(self, n: float) -> float:
        return min(self.count, n)


@dataclass(frozen=True)
class Same:
    """Of the ``count`` who entered that stage, the ones who are left."""

    stage: str
    count: int

    def __call__(self, past: Past) -> np.ndarray:
        return past.alive & ~np.isnan(past.seen[self.stage])

    def typical(self, n: float) -> float:
        return min(self.count, n)


@dataclass(frozen=True)
class IfBroken:
    """Everyone left, if one of those who entered that stage has fallen since; else no one."""

    stage: str

    def __call__(self, past: Past) -> np.ndarray:
        fell = ~np.isnan(past.seen[self.stage]) & ~past.alive
        return past.alive & fell.any()

    def typical(self, n: float) -> float:
        return 0
