"""How much of a run is still to come, in evaluations of one image, judging by what it has seen so far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from holdfast.audit.entry import NEAR, Escalated, IfBroken, Near, Past, Whole
from holdfast.audit.plan import Plan
from holdfast.records.schema import CLEAN
from holdfast.threats.threat import Threat

FAR = 0.2
"""Of the evaluations that Square with patience spends on a sample near falling, those that it spends on one far from it."""

SETTLED = 10
"""How many times as many samples need a verdict as are under way, before these are like those: the first ones fell fast."""

KNOWN = 8
"""Of how many samples left, at least, the margins are to be known before they stand for all."""


class Left(NamedTuple):
    """What is still to come, in evaluations or in seconds.

    ``most``: if every check raises an alarm that still can. ``least``: if none does. In the clean pass and the first search
    it is open, too, how many fall: for ``least`` as many of those under way as of those that have a verdict.
    """

    least: float
    most: float


class Forecast:
    """Told what a session sees, it tells what is left of its run.

    A sample that stands costs a stage all its steps, one that falls what those cost that fell there so far. Of the samples
    that are not begun the same share falls as of those that are; of those under way none, until they are few. Who enters a
    stage ahead follows from its own rule, applied to the margins known by now.
    """

    def __init__(self, plan: Plan, threat: Threat, *, classes: int, radii: int, n: int, world: int) -> None:
        self._plan, self._radii, self._world = plan, radii, world
        most = plan.most_evaluations(threat, 1, classes)
        self._full = {CLEAN: float(plan.draws)} | {name: float(sum(each)) for name, each in most.items()}
        self._lasts = {CLEAN: 1.0} | {stage.name: stage.attack.lasts for stage in plan.stages}
        self._entered: dict[str, float] = {}
        self._passed, self._first = 0, n
        everyone = np.ones(n)
        self._past = Past(np.arange(n), everyone > 0, everyone, {}, 0, frozenset())
        self.begin(CLEAN, None, entered=n, made=0)

    def begin(self, stage: str, past: Past | None, *, entered: int, made: int) -> None:
        """A stage begins, on so many samples, when ``made`` evaluations are made; ``past``: what its rule was shown."""
        self._at = -1 if past is None else [each.name for each in self._plan.stages].index(stage)
        self._stage, self._made, self._weight = stage, made, 1.0
        self._judged = self._fell = self._on_fallen = self._charged = 0
        if past is not None:
            entry = self._plan.stages[self._at].entry
            if isinstance(entry, Escalated) and entered:
                self._weight = _as_near_ones(entry, past) / past.share(entry(past))
            if not self._at:
                self._passed, self._first = self._passed + 1, int(past.alive.sum())
            self._past = past
        self._entered[stage] = entered * self._weight

    def judge(self, samples: int, fell: int, evaluations: int) -> None:
        """So many samples got their verdicts, ``fell`` of them a bad one, after so many evaluations in all."""
        self._judged += samples
        self._fell += fell
        self._charged += evaluations
        self._on_fallen += evaluations if fell else 0

    def learn(self, past: Past) -> None:
        """What the next stage would be shown, of those samples that wait for no verdict of this one."""
        if past.alive.sum() >= KNOWN:
            self._past = past

    def uncharged(self, made: int) -> int:
        """How many of the ``made`` evaluations no verdict of this stage has been charged with."""
        return max(0, made - self._made - self._charged)

    def left(self, waiting: int, standing: int, *, begun: int | None, made: int) -> Left:
        """Evaluations still to come.

        ``waiting``: the samples that wait for a verdict of this stage; ``standing``: those that nothing broke so far;
        ``begun``: how many samples' searches this process began in this stage, None where it searches none; ``made``: the
        evaluations it made.
        """
        begun = max(self._judged, begun or 0)
        under_way = min(waiting, (begun - self._judged) * self._world)
        fresh = waiting - under_way
        settled = self._judged >= SETTLED * under_way
        falls = self._fell / max(1, self._judged if settled else begun)
        full, lasts = self._full[self._stage], self._lasts[self._stage] * self._weight
        each = falls * self._on_fallen / max(1, self._fell) + (1 - falls) * lasts * full
        spent = min(under_way * full, self.uncharged(made) * self._world)
        stand = under_way * (1 - falls if settled else 1)
        here = fresh * each + lasts * stand * (full - spent / max(1, under_way))
        after = standing - falls * fresh - (under_way - stand)
        least = after
        if self._at < 0:
            least = 0.0
        elif not self._at:
            stood = 1 - self._fell / self._judged if self._judged else 0
            least = min(after, stood * (self._judged + waiting))
        return Left(here + self._ahead(least).least, here + self._ahead(after).most)

    def _ahead(self, n: float) -> Left:
        """Evaluations in the stages and at the radii to come, if n are left after this stage."""
        begun = [self._entered[stage.name] for stage in self._plan.stages[: self._at + 1]]
        coming = [self._entering(place, n) for place in range(self._at + 1, len(self._plan.stages))]
        radii = self._radii - max(1, self._passed)
        least = most = 0.0
        for place, (stage, entered) in enumerate(
            zip(self._plan.stages, [*(Left(each, each) for each in begun), *coming])
        ):
            answered = stage.attack.goal == "minimal"  # one run of those answers for all radii
            times = (place > self._at) + (0 if answered else radii * n / max(1, self._first))
            cost = self._full[stage.name] * self._lasts[stage.name]
            least, most = least + times * cost * entered.least, most + times * cost * entered.most
        return Left(least, most)

    def _entering(self, place: int, n: float) -> Left:
        """How many of n who are left by then enter the stage at that place."""
        stage, past = self._plan.stages[place], self._past
        entry = stage.entry
        rules = [each.entry for each in self._plan.stages]
        if isinstance(entry, Whole):
            return Left(len(past.ids), len(past.ids)) if past.seen else Left(n, n)
        if isinstance(entry, Near):
            if not past.seen:
                return Left(0, n * NEAR)
            between = sum(isinstance(rule, Near) for rule in rules[self._at + 1 : place])
            near = n * past.share(entry.within(past, entry.reach_after(past, between)))
            return Left(near, near)
        if isinstance(entry, IfBroken):
            known = n * past.share(entry(past)) if entry.stage in past.seen else 0.0
            return Left(known, known if known or self._at >= rules.index(entry) else n)
        if isinstance(entry, Escalated):
            known = n * _as_near_ones(entry, past)
            if known:  # the alarm is raised
                return Left(known, known)
            return Left(0, n * past.share(entry.near(past)) if past.seen else n * NEAR)
        return Left(entry.typical(n), entry.typical(n))


def _as_near_ones(entry: Escalated, past: Past) -> float:
    """As the share of how many near ones of those left the searches last of all that the rule lets in."""
    who, near = entry(past), entry.near(past)
    return past.share(who & near) + FAR * past.share(who & ~near)
