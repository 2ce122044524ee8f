"""A part of a run that several processes share: each takes pieces of the work, the first gathers what all have written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from holdfast.audit.ranks import Ranks, in_turn
from holdfast.records.lines import Line
from holdfast.records.part import Part

TAIL = 4
"""Of how many chunks for each process the work is taken in smaller pieces, so that all end at about the same time."""
PIECE = 8
"""How many items a smaller piece has."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: what is running, images times conditions done and in all, seconds so far and to go (or None)."""

    condition: str
    done: int
    total: int
    seconds: float
    eta: float | None


Watcher = Callable[[Progress], None]


@contextmanager
def opened(opens: Callable[[int], Part[Line]], ranks: Ranks) -> Iterator[Part[Line]]:
    """What ``opens`` opens for a process of this rank: the first one's, then the others', of what was written before."""
    part = in_turn(ranks, lambda: opens(ranks.rank))
    try:
        ranks.gather("read")  # nothing is appended before all have read what there is
        yield part
    finally:
        part.close()


def agree(part: Part[Line], ranks: Ranks) -> None:
    """The first process takes over what the others have appended since they last agreed."""
    part.take_over([name for name in ranks.gather(part.hand_over()) if name is not None])


def pieces(chunks: Sequence[Sequence[Item]], ranks: Ranks) -> list[Sequence[Item]]:
    """The items that are left of each chunk, as they are taken: chunk by chunk, the last chunks in smaller pieces.

    A chunk's items share something that whoever takes them has to make first, such as its decoded images.
    """
    left = [chunk for chunk in chunks if chunk]
    cut = max(0, len(left) - TAIL * ranks.world)
    return [*left[:cut], *(chunk[at : at + PIECE] for chunk in left[cut:] for at in range(0, len(chunk), PIECE))]


class Tally:
    """How much of a part is done by all its processes together, as who watches this one is told."""

    def __init__(self, name: str, ranks: Ranks, *, before: int, total: int, watch: Watcher | None) -> None:
        """``name``: of the counter that they share. ``before``: what was done when they began, of ``total``."""
        self._name, self._ranks, self._before, self._total, self._watch = name, ranks, before, total, watch
        self._last, self._what, self._began = before, name, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def add(self, what: str, amount: int) -> None:
        """So much more is done here, under ``what``."""
        self._what = what
        self._tell(amount)

    def close(self) -> None:
        """All is done; the last of it by others, it may be."""
        self._tell(0)

    def _tell(self, amount: int) -> None:
        fresh = self._ranks.add(f"{self._name} done", amount)
        done, seconds = self._before + fresh, self.seconds
        if self._watch and done > self._last:
            self._watch(Progress(self._what, done, self._total, seconds, (self._total - done) * seconds / fresh))
        self._last = done
