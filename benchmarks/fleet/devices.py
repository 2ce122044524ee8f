"""An audit on many devices: each an engine of its own, in the order of their clocks, with everything that they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import chain

import numpy as np

from fleet.costs import Costs
from fleet.slots import Order, Work, worked
from fleet.trace import Task, Trace
from holdfast.ascent.engine import breadth_first
from holdfast.audit.ranks import CHUNK, shares

PARTS = ("rows", "batches", "records", "counters", "tail", "agreement", "merge", "start and end")
"""What the time of a device goes into: evaluating rows; what a batch costs however many rows it has; writing records;
messages to the counters; waiting for the others at the end of a stage, but for what the first process was late after it had
taken over records; finding out who enters and telling one another the verdicts; that lateness; what is done once."""


@dataclass
class Seat:
    """A device's place among the `holdfast.audit.ranks.Ranks`: it shares the counters; ``asked`` counts its messages."""

    rank: int
    world: int
    counters: Counter[str]
    asked: int = 0

    def add(self, name: str, amount: int) -> int:
        self.asked += 1
        self.counters[name] += amount
        return self.counters[name]


Portions = Callable[[Task, Seat, int], Iterator[Sequence[int]]]
"""Stage, seat, slots -> the portions of that seat, drawn as it asks."""


def dealt(task: Task, seat: Seat, slots: int) -> Iterator[Sequence[int]]:
    """What `holdfast.audit.session.Session.stage` gives to a process."""
    own, chunks = shares(np.arange(len(task)), seat.world * slots, seat, "taken")  # type: ignore[arg-type]
    return (portion.tolist() for portion in chain([own], chunks))


@dataclass(frozen=True)
class Rule:
    """A way to divide a stage. ``slots``: stage, world, slots -> how many searches a device runs at once."""

    portions: Portions = dealt
    slots: Callable[[Task, int, int], int] = lambda task, world, slots: slots
    order: Order = breadth_first
    barrier: bool = True
    """Whether a stage begins when all have ended the one before. If not, nobody waits even for verdicts that he needs."""
    merging: bool = True
    """Whether the first process takes over the others' records between the stages; if not, at the end."""
    flushes: bool = True
    """Whether what it takes over goes to the disk file by file; if not, once for all files of a stage."""
    tallies: bool = True
    """Whether a process counts every verdict by itself; if not, those of a judgement together."""


def taken(dealing: Callable[[Task, int], int], size: Callable[[int, int, int], int]) -> Portions:
    """Samples dealt beforehand, then chunks.

    ``dealing``: stage, slots -> how many to each device beforehand; ``size``: samples left, world, searches of a sample ->
    how many in the next chunk. The places of all chunks follow from the size of the stage, so that one counter suffices.
    """

    def portions(task: Task, seat: Seat, slots: int) -> Iterator[Sequence[int]]:
        count, width = task.steps.shape
        fixed = min(count, seat.world * dealing(task, slots))
        starts = [fixed]
        while starts[-1] < count:
            starts.append(min(count, starts[-1] + size(count - starts[-1], seat.world, width)))
        yield range(seat.rank, fixed, seat.world)
        while (number := seat.add("taken", 1)) < len(starts):
            yield range(starts[number - 1], starts[number])

    return portions


def chunks(size: int) -> Portions:
    """Chunks of that size, after a dealing of all slots."""
    return taken(lambda task, slots: slots, lambda left, world, width: size)


guided = taken(lambda task, slots: 0, lambda left, world, width: max(1, left // (2 * world)))
"""Chunks of half an equal share of what is left, nothing dealt beforehand."""

enough = taken(lambda task, slots: -(-slots // task.steps.shape[1]), lambda left, world, width: max(1, CHUNK // width))
"""As many samples dealt as fill the slots with all their searches; chunks of as many as `CHUNK` searches."""


def by_portion(portions: Iterable[Sequence[int]], width: int) -> Iterator[tuple[int, int]]:
    """All searches of a portion before the next portion is asked for; breadth first within it."""
    return ((position, search) for portion in portions for search in range(width) for position in portion)


def halved(least: int) -> Callable[[Task, int, int], int]:
    """Slots for half an equal share of all searches, if these are ``least`` or more: the rest is left to who asks first."""

    def slots(task: Task, world: int, slots: int) -> int:
        half = task.steps.size // (2 * world)
        return min(slots, half) if half >= least else slots

    return slots


@dataclass
class Spent:
    """Where a run stands: the clock of each device, (W,) seconds, and what of it went into which of the `PARTS`."""

    clock: np.ndarray
    into: dict[str, np.ndarray] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Batches, rows stepped, rows begun, rows judged, messages to the counters."""

    @classmethod
    def nothing(cls, world: int) -> Spent:
        return cls(np.zeros(world), {part: np.zeros(world) for part in PARTS})

    def add(self, part: str, seconds: np.ndarray | float) -> None:
        self.into[part] += seconds
        self.clock = self.clock + seconds

    @property
    def wall(self) -> float:
        return float(self.clock.max())

    def shares(self) -> dict[str, float]:
        """Of the time of all devices."""
        return {part: float(seconds.sum() / self.clock.sum()) for part, seconds in self.into.items()}


def speeds(world: int, *, jitter: float = 0.0, straggler: float = 1.0, seed: int = 0) -> np.ndarray:
    """How fast the devices are, (W,): normal around 1 with that deviation, the last one ``straggler`` times as fast.

    A device by itself has the speed 1.
    """
    if world == 1:
        return np.ones(1)
    drawn = np.clip(np.random.default_rng(seed).normal(1, jitter, world), 0.5, 1.5)
    drawn[-1] *= straggler
    return drawn


def audit(trace: Trace, costs: Costs, speed: np.ndarray, slots: int, rule: Rule = Rule()) -> Spent:
    """The whole run, from the start of the processes to the page."""
    world, spent = len(speed), Spent.nothing(len(speed))
    spent.add("start and end", costs.start(trace, world))
    _clean(trace, costs, speed, slots, spent)
    late = 0.0
    for task in trace.tasks:
        spent.add("agreement", costs.past * trace.samples)
        made = stage(task, costs, speed, slots, rule, spent)
        if world > 1 and rule.barrier:
            _meet(spent, late)
            spent.add("agreement", costs.agreement(world, len(task)))
            others = int(made[1:].sum()), int((made[1:] > 0).sum())
            late = costs.merge(*others, flushes=rule.flushes) if rule.merging else 0.0
            spent.clock[0] += late
            spent.into["merge"][0] += late
    _meet(spent, late)
    if not rule.merging:  # one pair of files from each, for the whole run
        spent.add("merge", costs.merge(spent.counts["records"], world - 1))
    spent.add("start and end", costs.end(trace))
    return spent


def _meet(spent: Spent, late: float) -> None:
    """All wait for the last; what the first was late for merging is told apart."""
    without = max(float(spent.clock[1:].max(initial=0.0)), float(spent.clock[0]) - late)
    wait = spent.clock.max() - spent.clock
    for_the_first = np.minimum(wait, spent.clock.max() - without)
    spent.into["merge"] += for_the_first
    spent.into["tail"] += wait - for_the_first
    spent.clock = np.full_like(spent.clock, spent.clock.max())


def _clean(trace: Trace, costs: Costs, speed: np.ndarray, slots: int, spent: Spent) -> None:
    world = len(speed)
    share = np.array([len(range(rank, trace.samples, world)) for rank in range(world)])  # by stride
    spent.add("rows", share * costs.judge.row / speed)
    spent.add("batches", np.ceil(share / slots) * costs.judge.batch / speed)
    spent.add("records", share * costs.record)
    if world > 1:
        _meet(spent, 0.0)
        spent.add("agreement", costs.agreement(world, trace.samples))


def stage(task: Task, costs: Costs, speed: np.ndarray, slots: int, rule: Rule, spent: Spent) -> np.ndarray:
    """One stage; returns how many records each device wrote, (W,)."""
    world, counters, served = len(speed), Counter(), 0.0
    slots = rule.slots(task, world, slots)
    seats = [Seat(rank, world, counters) for rank in range(world)]
    engines = [worked(task, rule.portions(task, seat, slots), slots, rule.order) for seat in seats]
    wrote = np.zeros(world, dtype=np.int64)
    ready = [(float(clock), rank) for rank, clock in enumerate(spent.clock)]
    heapify(ready)
    clock = np.array(spent.clock)
    into = {part: spent.into[part] for part in ("rows", "batches", "records", "counters")}

    def ask(now: float, messages: int) -> float:
        """Seconds until so many messages, one after the other, are answered by the one store."""
        nonlocal served
        if world == 1 or not messages:
            return 0.0
        served = max(served, now) + messages * costs.serve
        spent.counts["messages"] += messages
        return max(messages * costs.ask, served - now + costs.ask - costs.serve)

    owed = [0] * world
    while ready:
        now, rank = heappop(ready)
        if owed[rank]:  # messages go in the order of the clocks
            told, owed[rank] = ask(now, owed[rank]), 0
            into["counters"][rank] += told
            heappush(ready, (now + told, rank))
            continue
        seat = seats[rank]
        work = next(engines[rank], None)
        waited = ask(now, seat.asked)
        seat.asked = 0
        into["counters"][rank] += waited
        if work is None:
            clock[rank] = now + waited
            continue
        rows, batches = costs.device(task, work)
        books = work.records * costs.record + work.points * costs.point
        into["rows"][rank] += rows / speed[rank]
        into["batches"][rank] += batches / speed[rank]
        into["records"][rank] += books
        owed[rank] = 2 * (work.verdicts if rule.tallies else work.kind == "judged") if world > 1 else 0
        wrote[rank] += work.records
        tally(spent.counts, work)
        heappush(ready, (now + waited + (rows + batches) / speed[rank] + books, rank))
    spent.clock = clock
    return wrote


def tally(counts: Counter[str], work: Work) -> None:
    """Adds up batches, rows, records and verdicts."""
    counts[work.kind] += work.times
    counts[f"rows {work.kind}"] += work.times * work.rows
    counts["records"] += work.records
    counts["verdicts"] += work.verdicts


def least(trace: Trace, costs: Costs, world: int, slots: int) -> float:
    """Seconds of the steps alone that no division over so many equal devices can beat.

    Either all slots are full at all times, or the longest search of every stage is waited for.
    """
    full = longest = 0.0
    for task in trace.tasks:
        pace = costs.steps[task.attack]
        full += task.rows * (pace.row + pace.batch / slots)
        longest += int(task.steps.max(initial=0)) * (pace.row + pace.batch)
    return max(full / world, longest)
