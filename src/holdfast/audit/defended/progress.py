"""How far an audit of a defence is, in images times stages, and how long the rest will take at most, or nearly so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.audit.divided import Progress
from holdfast.records.defended import BLACK_BOX, LARGE, Attacked


@dataclass(frozen=True)
class Clock:
    """Progress from what the stages cost.

    Args:
        weights: stage -> what an image of it costs, in forwards of the model, in the order of the stages.
        n: images under test.
        known: the lines that were there when it began.
    """

    weights: Mapping[str, float]
    n: int
    known: frozenset[tuple[str, int]]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def at(self, stage: str, lines: Mapping[tuple[str, int], Attacked]) -> Progress:
        """Where the run stands, with these lines written, the last of ``stage``."""
        passed = [*self.weights][: [*self.weights].index(stage)]  # a budget that was not needed is not waited for
        waited = [name for name in self.weights if name not in passed or (name, 0) in lines]
        done, fresh = dict.fromkeys(waited, 0), 0.0
        for key, line in lines.items():
            count = self.n if key[0] in (LARGE, BLACK_BOX) else len(line.ids)
            done[key[0]] += count
            fresh += 0 if key in self.known else count * self.weights[key[0]]
        left = sum((self.n - done[name]) * self.weights[name] for name in waited)
        eta = left * self.seconds / fresh if fresh else None
        return Progress(stage, sum(done.values()), self.n * len(waited), self.seconds, eta)
