"""How far an audit of a defence is, in images times stages, and how long the rest will take at most, or nearly so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.audit.divided import Progress
from holdfast.audit.ranks import Ranks


@dataclass(frozen=True)
class Clock:
    """Progress from what the stages cost, of all processes together.

    Args:
        weights: stage -> what an image of it costs, in forwards of the model, in the order of the stages.
        n: images under test.
        known: stage -> images that were done when it began.
        ranks: the processes that share the work.
    """

    weights: Mapping[str, float]
    n: int
    known: Mapping[str, int]
    ranks: Ranks
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def at(self, stage: str, images: int, *, since: str) -> Progress:
        """Where the run stands when this process is done with so many images more of ``stage``.

        All stages before ``since`` are over: a budget among them that was not needed is not waited for.
        """
        fresh = {name: self.ranks.add(f"defended {name}", images if name == stage else 0) for name in self.weights}
        done = {name: self.known.get(name, 0) + count for name, count in fresh.items()}
        passed = [*self.weights][: [*self.weights].index(since)]
        waited = [name for name in self.weights if name not in passed or done[name]]
        spent = sum(count * self.weights[name] for name, count in fresh.items())
        left = sum((self.n - done[name]) * self.weights[name] for name in waited)
        eta = left * self.seconds / spent if spent else None
        return Progress(stage, sum(done.values()), self.n * len(waited), self.seconds, eta)
