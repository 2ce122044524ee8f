"""Several processes of a run as threads of one: what torchrun gives them, without torchrun."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from holdfast.foundation.errors import Incomplete

Found = TypeVar("Found")


class Table:
    """What the processes of a run share: what each has told at every meeting, counters, whether one has ended in error."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.told: dict[int, dict[int, Any]] = defaultdict(dict)
        self.counters: Counter[str] = Counter()
        self.broken = False


class Thread:
    """One of several processes; a `Ranks`."""

    def __init__(self, rank: int, world: int, table: Table) -> None:
        self.rank, self.local, self.world, self._table = rank, rank, world, table
        self._meetings = 0

    def gather(self, mine: Any) -> list[Any]:
        table = self._table
        with table.changed:
            told = table.told[self._meetings]
            self._meetings += 1
            told[self.rank] = mine
            table.changed.notify_all()
            assert table.changed.wait_for(lambda: len(told) == self.world or table.broken, 60)
            if len(told) < self.world:
                raise Incomplete("another process of this run has ended before its work was done", hint="again")
            return [told[rank] for rank in range(self.world)]

    def add(self, name: str, amount: int) -> int:
        with self._table.changed:
            self._table.counters[name] += amount
            return self._table.counters[name]


def at_once(world: int, work: Callable[[Thread], Found]) -> list[Found | Exception]:
    """What ``work`` returns or raises for each of so many processes; where one raises, the others' next `gather` does."""
    table = Table()

    def one(rank: int) -> Found | Exception:
        try:
            return work(Thread(rank, world, table))
        except Exception as error:
            with table.changed:
                table.broken = True
                table.changed.notify_all()
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))
