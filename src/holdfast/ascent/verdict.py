"""What the searches of a sample came to, and the verdict that they allow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Ended:
    """One search that has ended and was judged. ``x``, (C, H, W), is kept where it is asked for or where it fooled."""

    position: int
    search: int
    label: int
    fooled: bool
    predicted: int
    value: float
    margin: float
    distance: float
    steps: int
    forwards: int
    backwards: int
    x: Tensor | None = None


@dataclass(frozen=True)
class Verdict(Ended):
    """The outcome for one sample: its deciding search, with the evaluations of all searches up to that one added up."""


@dataclass
class Sample:
    """The ended searches of one sample that has no verdict yet; ``minimal``: whether the nearest success decides."""

    minimal: bool
    ended: dict[int, Ended] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)
    """Searches that say they succeeded and are not judged yet."""
    broken_off: dict[int, str] = field(default_factory=dict)
    """Searches in which the model failed, and how."""

    def add(self, event: Ended) -> None:
        self.claimed.discard(event.search)
        if event.x is not None and (self.minimal or not event.fooled):
            # Of the searches that failed, or that only the nearest of can count, one point can still be asked for.
            rivals = [e for e in self.ended.values() if self.minimal or not e.fooled]
            if any(_rank(e) <= _rank(event) for e in rivals):
                event = dataclasses.replace(event, x=None)
            else:
                self.ended |= {e.search: dataclasses.replace(e, x=None) for e in rivals}
        self.ended[event.search] = event

    def wants(self, search: int) -> bool:
        if search in self.ended or any(other <= search for other in self.broken_off):
            return False
        return self.minimal or not any(e.fooled and e.search < search for e in self.ended.values())

    def undecidable(self) -> str | None:
        """How the model failed in a search that the verdict depends on, if it did."""
        if not self.broken_off:
            return None
        first = min(self.broken_off)
        decided = all(search in self.ended for search in range(first))
        return self.broken_off[first] if decided else None

    def decide(self, width: int) -> Verdict | None:
        """The verdict that the ended searches allow, or none yet.

        Of a budget attack: its first success, if all before it failed. Of a minimal attack: the nearest success of all.
        """
        for search in range(width):
            if search not in self.ended:  # also where the model failed
                return None
            if self.ended[search].fooled and not self.minimal:
                break
        considered = [self.ended[i] for i in range(search + 1)]
        last = considered[-1]
        chosen = last if last.fooled and not self.minimal else min(considered, key=_rank)
        return dataclasses.replace(
            Verdict(**vars(chosen)),
            margin=min(e.margin for e in considered),
            forwards=sum(e.forwards for e in considered),
            backwards=sum(e.backwards for e in considered),
        )


def _rank(event: Ended) -> tuple[bool, float]:
    """Smaller is better: a near success, then a far one, then a failure of a large loss."""
    return (False, event.distance) if event.fooled else (True, -event.value)
