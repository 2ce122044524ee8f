"""What must hold of the simulation whatever the figures are: ``scaling.py --check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fleet.costs import Costs
from fleet.devices import Rule, Seat, Spent, audit, by_portion, chunks, dealt, enough, guided, least, speeds, stage
from fleet.slots import worked
from fleet.trace import Task, Trace
from holdfast.ascent.attack import Attack
from holdfast.ascent.engine import Batch, Hunt
from holdfast.ascent.meter import Meter
from holdfast.ascent.state import Rows, State
from holdfast.ascent.verdict import Verdict
from holdfast.audit.estimate import Pace
from holdfast.losses import margin
from holdfast.threats.linf import Linf

COSTS = Costs(
    steps={"apgd": Pace(0.02, 0.01)}, judge=Pace(0.01, 0.005), begin=Pace(0.001, 0.0001), record=1e-5, point=1e-5, past=1e-6,
    ask=2e-5, serve=1e-5, link=1e-4, bandwidth=1e9, outcome=1e-6, outcome_bytes=32.0, take=1e-5, shard=1e-3, flush=5e-4,
    importing=1.0, meet=0.01, finish=1e-4, page=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Scripted(Attack):
    """Searches whose ``steps`` and outcomes, ``fools``, are written down, (N, S); channel 0 of an image says which."""

    steps: np.ndarray
    fools: np.ndarray

    @property
    def objective(self) -> Any:
        return lambda logits, y, target: -margin(logits, y, torch.full_like(y, -1))

    def begin(self, model: Any, rows: Rows) -> State:
        return State.at(rows, rows.x0)

    def step(self, model: Any, state: State) -> State:
        where = state.rows.x0[:, 0, 0, 0].mul(len(self.steps)).round().long(), state.rows.target
        count = state.count + 1
        ended = count >= torch.from_numpy(self.steps)[where]
        fooled = ended & torch.from_numpy(self.fools)[where]
        x = state.x.clone()
        x[:, 1, 0, 0] = fooled.double()
        best = torch.where(fooled.view(-1, 1, 1, 1), x, state.best)
        return replace(state, x=x, best=best, count=count, done=ended, fooled=fooled)

    def steps_on(self, threat: Any) -> int:
        return int(self.steps.max())


def drawn(samples: int, width: int, seed: int) -> Task:
    """A stage of which a third of the searches succeed, at any step up to 60; the others take all 60."""
    rng = np.random.default_rng(seed)
    fools = rng.random((samples, width)) < 1 / 3
    steps = np.where(fools, rng.integers(1, 61, (samples, width)), 60)
    return Task(f"stage {seed}", 0.1, "apgd", np.arange(samples), steps, fools, None)


def real(task: Task, portions: Iterator[list[int]], slots: int) -> tuple[list[int], Hunt]:
    """The engine on such a stage: the samples in the order of their verdicts, and what it counted."""
    samples, width = task.steps.shape
    x = torch.zeros(samples, 2, 1, 1, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.arange(samples) / samples

    def model(images: Tensor) -> Tensor:
        return torch.stack([1 - images[:, 1, 0, 0], images[:, 1, 0, 0]], 1)

    targets = torch.arange(width).repeat(samples, 1)
    hunt = Hunt(Scripted(task.steps, task.fools), Linf(1.0), targets, Meter(model), Meter(model), slots, stage=0)
    feed = Batch(x, torch.zeros(samples, dtype=torch.int64), torch.arange(samples))
    events = hunt.events(feed, portions=portions)
    return [event.position for event in events if isinstance(event, Verdict)], hunt


def same_as_the_engine() -> None:
    """Batches, rows and records, for few and many samples, one search each or nine, dealt at once or in chunks."""
    for seed, (samples, width, slots, rank, world) in enumerate(
        (
            (50, 1, 64, 0, 1),
            (300, 1, 16, 1, 3),
            (40, 9, 32, 0, 1),
            (200, 9, 16, 2, 3),
            (7, 9, 128, 0, 2),
            (120, 3, 1, 0, 1),
        )
    ):
        task = drawn(samples, width, seed)

        def portions(task: Task = task, rank: int = rank, world: int = world, slots: int = slots) -> Any:
            return dealt(task, Seat(rank, world, Counter()), slots)

        order, hunt = real(task, portions(), slots)
        works = list(worked(task, portions(), slots))
        steps = [work for work in works if work.kind == "steps"]
        assert sum(work.times for work in steps) == hunt.steps_made, seed
        assert sum(work.times * work.rows for work in steps) == hunt.rows_stepped, seed
        assert sum(work.verdicts for work in works) == len(order), seed
        assert sum(work.times * work.rows for work in works if work.kind == "judged") == hunt.original.forwards, seed


def nothing_is_lost() -> None:
    """However the samples are divided, each gets its verdict once; one search each costs the same steps on any number."""
    task, slow = drawn(1000, 1, 0), speeds(7, jitter=0.1, straggler=0.5)
    assert int(task.steps.sum()) == task.rows
    for portions in (dealt, guided, enough, chunks(1), chunks(64)):
        spent = Spent.nothing(7)
        stage(task, COSTS, slow, 16, Rule(portions), spent)
        assert spent.counts["verdicts"] == 1000 and spent.counts["rows steps"] == task.rows, portions


def one_device_is_the_sum() -> None:
    """By itself a device waits for nothing, and its time is that of its work."""
    trace = Trace(300, (drawn(300, 1, 0), drawn(200, 3, 1)), checks=0)
    spent = audit(trace, COSTS, np.ones(1), 32)
    waited = ("counters", "tail", "merge")
    assert all(not spent.into[part].any() for part in waited)
    assert abs(sum(float(spent.into[part][0]) for part in spent.into) - spent.wall) < 1e-9 * spent.wall


def no_miracles() -> None:
    """The parts of every device add up to its clock, and no number of devices beats the bound."""
    trace = Trace(400, (drawn(400, 1, 0), drawn(300, 9, 1)), checks=0)
    for world in (1, 2, 16, 256):
        for rule in (Rule(), Rule(merging=False), Rule(guided), Rule(enough, order=by_portion)):
            spent = audit(trace, COSTS, np.ones(world), 16, rule)
            assert np.allclose(sum(spent.into.values()), spent.clock), (world, rule)
            assert spent.wall >= least(trace, COSTS, world, 16), (world, rule)


LAWS = (same_as_the_engine, nothing_is_lost, one_device_is_the_sum, no_miracles)
