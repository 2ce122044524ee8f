"""What a piece of work costs, in seconds: the laws that carry what was measured at one and two processes to any number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fleet.slots import Work
from fleet.trace import Task, Trace
from holdfast.audit.estimate import Pace


@dataclass(frozen=True)
class Costs:
    """Seconds of a device of speed 1, unless another unit is named.

    Args:
        steps: of one step of a batch, by the registry name of the attack; judge: of a forward of a batch.
        begin: of putting a batch of new rows into their slots.
        record: of a search that ended: its books, its line; point: more, if it fooled.
        past: of finding out who enters a stage, for each sample of the run.
        ask: from a message to a counter to its answer; serve: of it, what the one store is busy for.
        link: of a message from a process to the next; bandwidth: bytes a second between two processes.
        outcome: of reading a verdict that another process reached; outcome_bytes: its size.
        take: of taking over a record that another process wrote; shard: of opening and removing its files, the ``flush`` to
            the disk in between included.
        importing: until a process has its code; meet: of meeting, for each other process.
        finish: of a sample in the summary; page: of the report.
    """

    steps: dict[str, Pace]
    judge: Pace
    begin: Pace
    record: float
    point: float
    past: float
    ask: float
    serve: float
    link: float
    bandwidth: float
    outcome: float
    outcome_bytes: float
    take: float
    shard: float
    flush: float
    importing: float
    meet: float
    finish: float
    page: float

    @classmethod
    def of(cls, found: dict[str, Any], net: str) -> Costs:
        """Of one net, from what `fleet.pricing.priced` measured."""
        paces = found["nets"][net]
        return cls(
            steps={attack: Pace(*pace) for attack, pace in paces["steps"].items()},
            judge=Pace(*paces["judge"]),
            begin=Pace(*paces["begin"]),
            **found["beside"],
        )

    def on(self, row: float, batch: float) -> Costs:
        """On other devices, whose gradient step of a row takes ``row``, and of a batch ``batch`` more: all in proportion."""
        ours = self.steps["apgd"]

        def moved(pace: Pace) -> Pace:
            return Pace(pace.batch * batch / ours.batch, pace.row * row / ours.row)

        steps = {attack: moved(pace) for attack, pace in self.steps.items()}
        return dataclasses.replace(self, steps=steps, judge=moved(self.judge))

    def apart(self, times: float) -> Costs:
        """With processes on many hosts: a message takes so many times as long."""
        return dataclasses.replace(self, ask=self.ask * times, link=self.link * times)

    def device(self, task: Task, work: Work) -> tuple[float, float]:
        """What the rows of some work take, and what its batches take however many rows they have."""
        pace = {"steps": self.steps[task.attack], "begun": self.begin, "judged": self.judge}[work.kind]
        return work.times * work.rows * pace.row, work.times * pace.batch

    def start(self, trace: Trace, world: int) -> float:
        """Until the first sample: code, model, the meeting, and the checks of the first process, for which all wait.

        An evaluation of the checks is a forward or a gradient: half of a step's row.
        """
        return self.importing + self.meet * (world - 1) + trace.checks * self.steps["apgd"].row / 2

    def end(self, trace: Trace) -> float:
        """The first process, alone: points, summary, page."""
        return self.finish * trace.samples + self.page

    def agreement(self, world: int, verdicts: int) -> float:
        """All processes flush their files and hand in what they found, and every one reads all of it.

        By gloo's ring: sizes first, then as many bytes from each as from the largest.
        """
        largest = self.outcome_bytes * verdicts / world
        return self.flush + (world - 1) * (2 * self.link + largest / self.bandwidth) + verdicts * self.outcome

    def merge(self, records: int, shards: int, *, flushes: bool = True) -> float:
        """The first process takes over so many records of so many others, flushed for each of them or once."""
        saved = 0.0 if flushes else max(0, shards - 1) * self.flush
        return records * self.take + shards * self.shard - saved
