"""What every search of a finished run took, read from its records; and the same for more samples than the run had."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from holdfast.ascent.attack import RANKED
from holdfast.audit.entry import Drawn, Same, Sampled
from holdfast.audit.plan import Stage, named
from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile
from holdfast.foundation.registry import name_of
from holdfast.records.schema import CLEAN, Record
from holdfast.records.store import read_info, read_records

CAPPED = (Sampled, Drawn, Same)
"""Rules of entry that let in so many, however many are left."""


@dataclass(frozen=True)
class Task:
    """A stage at one radius.

    Args:
        name, eps: of the stage; attack: its registry name.
        samples: who enters, (N,) int64 positions among the samples of the run, ascending.
        steps: of every search, (N, S) int64. A search that the run did not need, so did not finish, counts as one that
            ends without success.
        fools: whether it succeeds, (N, S) bool.
        most: how many enter at most.
    """

    name: str
    eps: float
    attack: str
    samples: np.ndarray
    steps: np.ndarray
    fools: np.ndarray
    most: int | None

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def searches(self) -> list[list[tuple[int, bool]]]:
        """Steps of every search, and whether it succeeds."""
        return [list(zip(*both)) for both in zip(self.steps.tolist(), self.fools.tolist())]

    @cached_property
    def rows(self) -> int:
        """Steps of single searches that no division of the work can save: those of the searches that decide."""
        first = np.where(self.fools.any(1), self.fools.argmax(1), self.fools.shape[1] - 1)
        return int(self.steps[np.arange(self.steps.shape[1])[None] <= first[:, None]].sum())


@dataclass(frozen=True)
class Trace:
    """A run: so many ``samples``, the stages at their radii in their order, and the ``checks`` before it, in evaluations."""

    samples: int
    tasks: tuple[Task, ...]
    checks: int


def read(folder: Path) -> Trace:
    """The trace of a finished run.

    Raises:
        BadFile: it holds a minimal attack, whose searches no record tells the end of, or a stage was not finished.
    """
    info = read_info(folder)
    threat = registry.load("threat", info.threat)
    plan = named(info.plan, threat(info.eps))
    found: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in read_records(folder):
        found[record.stage, record.eps].append(record)
    place = {sample: i for i, sample in enumerate(sorted(record.id for record in found[CLEAN, 0.0]))}
    tasks = []
    for eps in info.curve:
        for stage in plan.stages:
            if stage.attack.goal == "minimal":
                raise BadFile(
                    f"{folder} holds the minimal attack {stage.name}", hint="give a run by fast, standard or the like"
                )
            records = found.get((stage.name, eps))
            if records:
                tasks.append(_task(stage, eps, threat(eps), records, place, info.model.classes))
    return Trace(len(place), tuple(tasks), info.checks)


def _task(stage: Stage, eps: float, threat, records: list[Record], place: dict[int, int], classes: int) -> Task:
    width = stage.attack.searches(torch.zeros(1, min(RANKED, classes - 1), dtype=torch.int64)).shape[1]
    finals = sorted((record for record in records if record.final), key=lambda record: record.id)
    row = {record.id: i for i, record in enumerate(finals)}
    steps = np.full((len(finals), width), stage.attack.steps_on(threat), dtype=np.int64)
    fools = np.zeros((len(finals), width), dtype=bool)
    for record in records:  # of the search that ended last no record is kept unless it decided: it took all its steps
        steps[row[record.id], record.search] = record.steps
        fools[row[record.id], record.search] = record.fooled
    samples = np.array([place[record.id] for record in finals])
    most = round(stage.entry.typical(10**9)) if isinstance(stage.entry, CAPPED) else None
    return Task(stage.name, eps, name_of(stage.attack), samples, steps, fools, most)


def resampled(trace: Trace, samples: int, seed: int = 0) -> Trace:
    """The same run of so many samples, drawn with replacement, each with all that happened to it."""
    drawn = np.random.default_rng(seed).integers(0, trace.samples, samples)
    tasks = []
    for task in trace.tasks:
        row = np.full(trace.samples, -1)
        row[task.samples] = np.arange(len(task))
        positions = np.flatnonzero(row[drawn] >= 0)[: task.most]
        chosen = row[drawn[positions]]
        tasks.append(dataclasses.replace(task, samples=positions, steps=task.steps[chosen], fools=task.fools[chosen]))
    return dataclasses.replace(trace, samples=samples, tasks=tuple(task for task in tasks if len(task)))
