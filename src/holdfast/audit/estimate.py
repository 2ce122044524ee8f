"""What a plan will cost, before it runs: its steps are made a few times, at the size in which it will make them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.attack import RANKED, Attack, ranking
from holdfast.ascent.backward import Backward, Through
from holdfast.ascent.engine import Hunt
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.room import slots_for
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows
from holdfast.ascent.verdict import Verdict
from holdfast.ascent.views import Expectation
from holdfast.attacks.apgd import APGD
from holdfast.audit.entry import Near, Whole
from holdfast.audit.feed import tensors
from holdfast.audit.plan import Plan, Stage
from holdfast.audit.preflight import examined
from holdfast.data.source import Source
from holdfast.foundation import memory
from holdfast.losses import margin
from holdfast.models.model import Model
from holdfast.records.schema import CLEAN, Record
from holdfast.threats.threat import Threat

CHECKS = "checks"
"""The row of what comes before any stage: the doctor, and the probe of the gradients."""

FEW = 8
"""Rows of the smaller of the two batches between which the time of a step is drawn as a line."""


TIMES, ENOUGH = 8, 0.25
"""How often something is timed, and after how many seconds that suffices: other programs disturb short timings."""

SEARCHED = 128
"""How many images the short search is made on, at most."""


@dataclass(frozen=True)
class Cost:
    """What one stage costs at one radius.

    ``forwards``, ``backwards`` and ``seconds`` are the most: if no sample falls before its end and all enter it. ``usual``
    are the seconds if as many fall as a short search of one batch made fall, and of the others as many enter as usual.
    ``memory``: the peak of the process in bytes once this stage's steps had been made at the audit's size; None where the
    system does not say.
    """

    stage: str
    forwards: int
    backwards: int
    seconds: float
    usual: float
    memory: int | None = None


class Pace(NamedTuple):
    """Seconds of a batch of n rows: ``batch + n * row``."""

    batch: float
    row: float

    def __call__(self, rows: float, slots: int) -> float:
        """Seconds of ``rows`` rows, ``slots`` at a time."""
        return min(rows, ceil(rows / slots)) * self.batch + rows * self.row


class Fallen(NamedTuple):
    """What a short search made of a batch.

    ``right``, ``left``: the shares that were right at all, and that it left; ``steps``: of those that fell; ``step``,
    ``search``: seconds that the engine's books take for a step of a batch, and for a search; ``needs``: of those left, see
    `holdfast.audit.entry.Near`, none where nothing was searched.
    """

    right: float
    left: float
    steps: float
    step: float
    search: float
    needs: np.ndarray

    def entering(self, stage: Stage, share: float, earlier: int) -> float:
        """The share of all samples that usually enters a stage, of those left a ``share``, after so many stages `Near`."""
        if isinstance(stage.entry, Whole):
            return self.right
        if isinstance(stage.entry, Near) and len(self.needs):
            return self.left * float((self.needs <= stage.entry.usual_reach(earlier)).mean())
        return self.left * share


def estimate(model: Model, source: Source, *, threat: Threat, plan: Plan, slots: int | None = None) -> list[Cost]:
    """The cost of what comes before a plan, of the clean pass and of every stage at one radius.

    Makes the checks of the audit, a short search of one batch to see how many fall, and a few steps of every kind of
    attack on a batch of ``slots`` images.

    Raises:
        BadModel, BadData: as the audit would.
    """
    n, began = len(source), time.perf_counter()
    examined(model, source, plan, threat)
    checks = time.perf_counter() - began
    costs = [Cost(CHECKS, 0, 0, checks, checks, memory.peak())]
    sample, _ = tensors(source, np.asarray(source.ids)[:2], dtype=model.dtype, device=model.device)
    slots = slots or slots_for(model.module, sample)
    ids = np.asarray(source.ids)[np.unique(np.linspace(0, n - 1, slots).astype(int))]
    with frozen(model.module), rng_kept(model.device):
        began = time.perf_counter()
        x, y = tensors(source, ids, dtype=model.dtype, device=model.device)
        read = (time.perf_counter() - began) / len(ids)
        judge = _averaged(model.module, plan)
        forward = _pace(lambda count: lambda: engine.predict(judge, x[:count]), len(x), model.device)
        clean = forward(n, slots) + n * read
        costs.append(Cost("clean", n * plan.draws, 0, clean, clean, memory.peak()))
        copy = search_copy(model.module, x[:32]).module
        climbs = any(stage.attack.needs == "gradients" for stage in plan.stages) and threat.name in APGD.threats
        fallen = _fallen(judge, _averaged(copy, plan), x, y, threat, slots, forward, climbs=climbs)
        most, share = plan.most_evaluations(threat, n, model.classes), plan.typically(round(n * fallen.left))
        near = 0
        paces: dict[tuple[type, Backward | None], Pace] = {}
        for number, stage in enumerate(plan.stages):
            searched = _averaged(Through(copy, stage.backward) if stage.backward else copy, plan)
            kind = type(stage.attack), stage.backward
            if kind not in paces:
                batch, row = _pace_of(stage.attack, searched, judge, x, y, threat)
                paces[kind] = Pace(batch + fallen.step, row)
            width = stage.attack.searches(torch.zeros(1, min(RANKED, model.classes - 1), dtype=torch.int64)).shape[1]
            steps = stage.attack.steps_on(threat)

            def seconds(samples: float, pace: Pace = paces[kind], width: int = width, steps: int = steps) -> float:
                rows = samples * width
                return steps * pace(rows, slots) + forward(rows, slots) + rows * (read + fallen.search)

            usual = seconds(n * fallen.entering(stage, share[stage.name], near))
            near += isinstance(stage.entry, Near)
            if not number and not isinstance(stage.entry, Whole):  # those that fall at once were not counted
                usual += n * (fallen.right - fallen.left) * (fallen.steps * paces[kind].row + read + fallen.search)
            costs.append(Cost(stage.name, *most[stage.name], seconds(n), usual, memory.peak()))
    return costs


def _averaged(classifier: Classifier, plan: Plan) -> Meter:
    return Meter(Expectation(classifier, plan.draws) if plan.draws > 1 else classifier)


def _fallen(
    judge: Meter, searched: Meter, x: Tensor, y: Tensor, threat: Threat, slots: int, forward: Pace, *, climbs: bool
) -> Fallen:
    """What the first search of the plan fast leaves of a batch; what is right, where gradients are not to be searched by."""
    logits = engine.predict(judge, x)
    right = (logits.argmax(1) == y).nonzero()[:, 0]
    share = len(right) / len(x)
    if not len(right) or not climbs:
        return Fallen(share, share, 0.0, 0.0, 0.0, np.zeros(0))
    right = right[:: ceil(len(right) / SEARCHED)]  # evenly: a folder's images lie class by class
    attack = APGD(steps=8, loss="scaled_ce", start="clean")
    pace = _pace_of(attack, searched, judge, x, y, threat)
    root = keys.root(0, device=x.device)

    def searching(chosen: Tensor) -> tuple[Hunt, list[Verdict], float]:
        """A search of some images, and the seconds of it that neither its steps nor its judgement took."""
        beside: list[float] = []
        took = 0.0
        while not beside or (len(beside) < 3 and took < ENOUGH):  # the fastest one counts
            targets = attack.searches(ranking(logits, y)[chosen].cpu())
            hunt = Hunt(attack, threat, targets, searched, judge, slots, stage=0)
            began = time.perf_counter()
            ended = list(hunt.verdicts(engine.Batch(x[chosen], y[chosen], keys.fold(root, chosen))))
            took = time.perf_counter() - began
            made = hunt.steps_made * pace.batch + hunt.rows_stepped * pace.row + forward(len(ended), slots)
            beside.append(max(0.0, took - made))
        return hunt, ended, min(beside)

    small, _, seconds = searching(right[:FEW])
    step = seconds / small.steps_made
    hunt, ended, seconds = searching(right)
    search = max(0.0, seconds - hunt.steps_made * step) / len(ended)
    steps = [each.steps for each in ended if each.fooled]
    lead = (-margin(logits, y, torch.full_like(y, -1)))[right].tolist()
    return Fallen(
        right=share,
        left=share * (1 - len(steps) / len(ended)),
        steps=sum(steps) / max(1, len(steps)),
        step=step,
        search=search + _writing(),
        needs=np.array(
            [each.margin / max(lead[each.position] - each.margin, 1e-12) for each in ended if not each.fooled]
        ),
    )


def _writing() -> float:
    """Seconds of making one line of the records."""
    record = Record(
        id=0, stage=CLEAN, eps=0.0, label=0, fooled=False, predicted=0, margin=0.5, value=-0.5, distance=0.0, steps=0,
        forwards=1, backwards=0,
    )  # fmt: skip
    return _fastest(lambda: [Record(**dict(record)).model_dump_json() for _ in range(100)], torch.device("cpu")) / 100


def _pace_of(attack: Attack, searched: Meter, judge: Meter, x: Tensor, y: Tensor, threat: Threat) -> Pace:
    """The pace of one step of an attack."""
    target = attack.searches(ranking(engine.predict(judge, x), y).cpu())[:, 0].to(y.device)
    key = keys.fold(keys.root(0, device=x.device), torch.arange(len(y), device=x.device))

    def step(count: int) -> Callable[[], object]:
        state = attack.begin(searched, Rows(x[:count], y[:count], target[:count], key[:count], threat))
        return lambda: attack.step(searched, state)

    with torch.no_grad():
        return _pace(step, len(x), x.device)


def _pace(work: Callable[[int], Callable[[], object]], most: int, device: torch.device) -> Pace:
    """The line through the times of ``work`` on `FEW` and on ``most`` rows."""
    long = _fastest(work(most), device)
    if most <= FEW:
        return Pace(long, 0.0)
    short = _fastest(work(FEW), device)
    row = max(0.0, (long - short) / (most - FEW))
    return Pace(max(0.0, long - most * row), row)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some evaluations: `TIMES`, fewer where they are slow, the first to warm up if not alone."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < TIMES and sum(seconds) < ENOUGH):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:] or seconds)
