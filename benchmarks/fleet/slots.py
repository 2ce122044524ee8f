"""The engine's slots without tensors: which rows are begun, stepped and judged when, if it is known what each takes.

The rules are those of `holdfast.ascent.engine.Hunt.events` for attacks whose goal is a budget; ``scaling.py --check`` holds
the two against each other. A claim that the classifier refuses is not simulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from fleet.trace import Task
from holdfast.ascent.engine import PATIENCE, breadth_first

Order = Callable[[Iterable[Sequence[int]], int], Iterator[tuple[int, int]]]
"""Portions of samples, searches of each -> (sample, search) in the order in which they are begun."""


class Work(NamedTuple):
    """``times`` batches of so many ``rows``.

    ``kind``: ``begun``, ``steps`` or ``judged``; of the last, ``verdicts`` and ``records`` (searches and verdicts) came of
    it, with ``points`` new images.
    """

    kind: str
    rows: int
    times: int = 1
    verdicts: int = 0
    records: int = 0
    points: int = 0


def worked(task: Task, portions: Iterable[Sequence[int]], slots: int, order: Order = breadth_first) -> Iterator[Work]:
    """The work of one process on a stage, as it does it. A portion is drawn when slots are free, never earlier."""
    searches, width = task.searches, task.steps.shape[1]
    ahead = order(portions, width)
    resolved: set[int] = set()
    ended: dict[int, dict[int, bool]] = {}
    claimed: dict[int, set[int]] = {}
    put_back: deque[tuple[int, int]] = deque()
    deferred: list[tuple[int, int]] = []
    ends: list[tuple[int, int, tuple[int, int]]] = []
    flying: dict[tuple[int, int], int] = {}
    waiting: list[tuple[int, int]] = []
    tick = since = begun = 0

    def wanted(position: int, search: int) -> bool:
        if position in resolved:
            return False
        known = ended.get(position)
        if not known:
            return True
        return search not in known and not any(fooled and other < search for other, fooled in known.items())

    while True:
        fresh: list[tuple[int, int]] = []
        free = slots - len(flying)
        while len(fresh) < free:
            place = put_back.popleft() if put_back else next(ahead, None)
            if place is None:
                break
            if not wanted(*place):
                continue
            if any(claim < place[1] for claim in claimed.get(place[0], ())):
                deferred.append(place)
            else:
                fresh.append(place)
        for place in fresh:
            begun += 1
            flying[place] = begun
            heappush(ends, (tick + searches[place[0]][place[1]][0], begun, place))
        if fresh:
            yield Work("begun", len(fresh))
        if waiting and (not flying or len(waiting) >= slots or since >= PATIENCE or (deferred and len(flying) < slots)):
            since = verdicts = records = points = 0
            for position, search in waiting:
                claimed.get(position, set()).discard(search)
                if not wanted(position, search):
                    continue
                points += searches[position][search][1]
                records += 1
                known = ended.setdefault(position, {})
                known[search] = searches[position][search][1]
                if _decided(known, width):
                    verdicts += 1
                    resolved.add(position)
                    del ended[position]
                    claimed.pop(position, None)
            yield from _judged(len(waiting), slots, verdicts, records, points)
            waiting = []
            put_back.extend(deferred)
            deferred = []
            if width > 1:
                flying = {place: at for place, at in flying.items() if wanted(*place)}
            continue
        if not flying:
            return
        while flying.get(ends[0][2]) != ends[0][1]:  # dropped
            heappop(ends)
        times = ends[0][0] - tick
        if waiting:
            times = min(times, max(1, PATIENCE - since))
        yield Work("steps", len(flying), times)
        tick += times
        since += times
        while ends and ends[0][0] <= tick:
            _, at, place = heappop(ends)
            if flying.get(place) == at:
                del flying[place]
                waiting.append(place)
                if searches[place[0]][place[1]][1]:
                    claimed.setdefault(place[0], set()).add(place[1])


def _decided(ended: dict[int, bool], width: int) -> bool:
    for search in range(width):
        if search not in ended:
            return False
        if ended[search]:
            return True
    return True


def _judged(rows: int, slots: int, verdicts: int, records: int, points: int) -> Iterator[Work]:
    """One judgement: batches of ``slots``, what came of them with the last."""
    full, rest = divmod(rows, slots)
    if rest and full:
        yield Work("judged", slots, full)
    last = Work("judged", rest or slots, 1 if rest else full)
    yield last._replace(verdicts=verdicts, records=records, points=points)
