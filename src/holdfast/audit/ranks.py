"""Several processes that work on one audit: how they were started is torchrun's business, who does what is settled here."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from holdfast.foundation.errors import BadValue, Incomplete

if TYPE_CHECKING:
    import numpy as np

CHUNK = 8
"""How many samples a process asks for at a time, once its slots are filled."""

Taken = TypeVar("Taken")
Made = TypeVar("Made")

_LONG = timedelta(days=365)  # a process may wait for another one's stage; if that one dies, the connection breaks


class Ranks(Protocol):
    """The processes of a run. ``rank``: which one this is, 0 to ``world`` - 1; ``local``: which one on its host."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def local(self) -> int: ...

    def gather(self, mine: Any) -> list[Any]:
        """What every process hands in, by rank; waits for all. Raises Incomplete if one of them has ended."""
        ...

    def add(self, name: str, amount: int) -> int:
        """Adds to a counter that all processes share; returns its new value. It begins at 0."""
        ...


class Alone:
    """A run of one process."""

    rank, world, local = 0, 1, 0

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}

    def gather(self, mine: Any) -> list[Any]:
        return [mine]

    def add(self, name: str, amount: int) -> int:
        self._counters[name] = self._counters.get(name, 0) + amount
        return self._counters[name]


class Group:
    """The processes that torchrun started: messages by gloo, counters in torchrun's own store."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._store, self.rank, self.world = next(dist.rendezvous("env://"))
        self.local = int(os.environ["LOCAL_RANK"])
        within = dist.PrefixStore("group", self._store)
        dist.init_process_group("gloo", store=within, rank=self.rank, world_size=self.world, timeout=_LONG)
        atexit.register(dist.destroy_process_group)  # its threads would abort a process that ends while they run

    def gather(self, mine: Any) -> list[Any]:
        import torch.distributed as dist

        told: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(told, mine)
        except RuntimeError as error:
            raise _ended() from error
        return told

    def add(self, name: str, amount: int) -> int:
        try:
            return self._store.add(name, amount)
        except RuntimeError as error:
            raise _ended() from error


class Apart:
    """The same processes with counters of their own: for one of several runs in a row."""

    def __init__(self, ranks: Ranks, name: str) -> None:
        self._ranks, self._name = ranks, name
        self.rank, self.world, self.local = ranks.rank, ranks.world, ranks.local

    def gather(self, mine: Any) -> list[Any]:
        return self._ranks.gather(mine)

    def add(self, name: str, amount: int) -> int:
        return self._ranks.add(f"{self._name}: {name}", amount)


def together() -> Ranks:
    """The processes of this run: those that torchrun started, else this one alone."""
    return Group() if launched() else Alone()


def launched() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def alone(what: str) -> None:
    """Refuses to do that as one of several processes. Raises BadValue."""
    if launched():
        raise BadValue(f"{what} is the work of one process", hint="start it without torchrun")


def first_to_tell() -> bool:
    """Whether no other process of the run has asked this before: an error that all of them meet is told once."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=5), wait_for_workers=False)
        return store.add(f"holdfast told {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except RuntimeError:  # nobody is left to agree with
        return True


def by_first(ranks: Ranks, make: Callable[[], Made]) -> Made:
    """What the first process makes, told to all, which wait for it."""
    return ranks.gather(None if ranks.rank else make())[0]


def in_turn(ranks: Ranks, make: Callable[[], Made]) -> Made:
    """What each process makes for itself, the first before the others."""
    if ranks.rank:
        ranks.gather(None)
    made = make()
    if not ranks.rank:
        ranks.gather(None)
    return made


def taken(pieces: Sequence[Taken], ranks: Ranks, name: str) -> Iterator[Taken]:
    """Those of ``pieces`` that no other process takes: the next one goes to who asks first.

    Args:
        name: of the counter that says how many are taken; a new one for every call.
    """
    while (place := ranks.add(name, 1) - 1) < len(pieces):
        yield pieces[place]


def shares(order: np.ndarray, fixed: int, ranks: Ranks, name: str) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """This process's part of ``order``: what is its own from the start, and chunks that it takes when it asks for them.

    Args:
        order: positions, (N,).
        fixed: of the first so many, each process has every ``world``-th; the others go to who asks first.
        name: see `taken`.
    """
    chunks = [order[start : start + CHUNK] for start in range(fixed, len(order), CHUNK)]
    return order[:fixed][ranks.rank :: ranks.world], taken(chunks, ranks, name)


def _ended() -> Incomplete:
    return Incomplete(
        "another process of this run has ended before its work was done",
        hint="what is finished is kept: run the same command again, with any number of processes, to go on",
    )
