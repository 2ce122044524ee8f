"""Attacks a defended model stage by stage, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.attacks.apgd import APGD
from holdfast.attacks.square import Square
from holdfast.audit.defended.bench import Bench, Subject, answered
from holdfast.audit.defended.outcome import adaptive_stage, gathered, levels
from holdfast.audit.defended.progress import Clock
from holdfast.audit.defended.search import SCALE, Search, Standing, most_certain, on_the_model
from holdfast.audit.defended.views import Cost, Entrance, Steady, cost
from holdfast.audit.divided import Watcher, agree, opened
from holdfast.audit.feed import tensors
from holdfast.audit.ranks import Ranks, taken
from holdfast.records.defended import (
    BLACK_BOX,
    FIXED,
    FOLDER,
    LARGE,
    OBLIVIOUS,
    POINTS,
    Attacked,
    DefendedInfo,
    adaptive,
    attacked,
    defended_store,
)
from holdfast.records.part import Part
from holdfast.records.points import read_points, write_points
from holdfast.records.schema import CLEAN
from holdfast.threats.threat import Threat

Made = tuple[Attacked, dict[str, Tensor]]

CHECKED, QUERIES = 16, 200
"""How many images the checks of a large radius and of a black box take, and how many questions the latter asks."""
ONCE = (LARGE, BLACK_BOX)
"""The stages that take a few images, at once."""


@dataclass(frozen=True)
class Outcome:
    """What a run saw: its lines, what an answer costs in forwards on clean and on attacked images, and the seconds."""

    lines: dict[tuple[str, int], Attacked]
    cost: float
    cost_attacked: float
    seconds: float


def run_defended(
    subject: Subject, info: DefendedInfo, folder: Path, *, ranks: Ranks, watch: Watcher | None = None
) -> Outcome:
    """Attacks and scores everything that ``folder`` does not hold yet.

    Args:
        ranks: the processes that share the work. Each of them calls this.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`.
        BadModel: the model fails on an image; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    shared = opened(lambda rank: defended_store(folder, info, rank), ranks)
    with shared as store, frozen(subject.model.module), rng_kept(subject.model.device):
        return _Session(subject, info, folder, store, watch, ranks).run()


class _Session:
    """The work from where the folder stands to its end. Points are handed on from stage to stage in the folder."""

    def __init__(
        self,
        subject: Subject,
        info: DefendedInfo,
        folder: Path,
        store: Part[Attacked],
        watch: Watcher | None,
        ranks: Ranks,
    ) -> None:
        self.subject, self.info, self.store, self.watch, self.ranks = subject, info, store, watch, ranks
        self.bench, self.effort = Bench(subject, info), subject.effort
        self.points = folder / FOLDER / POINTS
        every = {(line.stage, line.first): line for line in attacked(folder)}
        self.lines = {key: every[key] for key in every if key in store.done}  # another process may be ahead
        self.ids = np.asarray(subject.source.ids)
        self.firsts = range(0, len(self.ids), info.chunk)
        known: Counter[str] = Counter()
        for line in self.lines.values():
            known[line.stage] += self._counted(line)
        self.clock = Clock(self._weights(), len(self.ids), known, ranks)
        self.told = known.total()

    def run(self) -> Outcome:
        self.stages({CLEAN: self._clean, OBLIVIOUS: self._oblivious})
        for place, budget in enumerate(self.info.budgets):
            if place and levels(self.lines, self.info)[-1].flat:
                break
            self.stages({adaptive(budget): partial(self._adaptive, budget=budget)})
        self.stages({FIXED: self._fixed, LARGE: self._large, BLACK_BOX: self._black_box})
        there = self._stored(adaptive_stage(self.lines, self.info), 0)["x"][:8]
        on_points = cost(self.subject.defence, self.bench.module, there)
        return Outcome(self.lines, self.bench.answer, on_points, self.clock.seconds)

    def stages(self, work: Mapping[str, Callable[[int], Made]]) -> None:
        """Everything of some stages that is not recorded yet, chunk by chunk; none of them needs what another one finds."""
        every = [(name, first) for name in work for first in (self.firsts[:1] if name in ONCE else self.firsts)]
        own: list[Attacked] = []
        for name, first in taken([key for key in every if key not in self.lines], self.ranks, f"taken {[*work]}"):
            line, points = work[name](first)
            if points:
                write_points(self._file(name, first), points)
            self.store.append(line)
            own.append(line)
            self._tell(name, self._counted(line), work)
        agree(self.store, self.ranks)
        for line in chain(*self.ranks.gather(own)):
            self.lines[line.stage, line.first] = line
        self._tell([*work][-1], 0, work)

    # The stages. Each returns its line and its points: ``x``, and ``worst`` for the defence where that is another.

    def _clean(self, first: int) -> Made:
        bench = self.bench
        x, _, ids = bench.images(first)
        return bench.line(CLEAN, first, x, fixed=bench.mode(x), forwards=len(ids)), {}

    def _oblivious(self, first: int) -> Made:
        """Points found on the model alone. The one it is surest of stands for them; the adaptive attack begins at any."""
        bench, effort = self.bench, self.effort
        x, y, ids = bench.images(first)
        rows = bench.rows(x, y, ids, OBLIVIOUS)
        found = on_the_model(bench.core, rows, effort.steps)
        chosen = most_certain(bench.core, list(found.values()), rows)
        best, stands, by = x, bench.stands(x, y, ids), [CLEAN] * len(ids)
        right, model_right = {}, {}
        for name, points in found.items():
            new = bench.stands(points, y, ids)
            right[name] = tuple((1 - new.wrong).tolist())
            model_right[name] = tuple((answered(bench.model, points) == y).tolist())
            better = new.worse_than(stands)
            best = torch.where(better.view(-1, 1, 1, 1), points, best)
            by = [name if moved else old for moved, old in zip(better.tolist(), by)]
            stands = stands.updated(better.nonzero()[:, 0], new.at(better.nonzero()[:, 0]))
        steps = SCALE * effort.steps * (len(found) + 1) + 10
        line = bench.line(
            OBLIVIOUS,
            first,
            chosen,
            fixed=bench.mode(chosen),
            found=by,
            gradients=steps * len(ids),
            forwards=round(len(ids) * (steps + bench.held_out * len(found) * bench.answer)),
        )
        line = line.model_copy(update={"right": right, "model_right": model_right})
        return line, {"x": chosen, "worst": best, "wrong": stands.wrong, "margin": stands.margin}

    def _adaptive(self, first: int, budget: int) -> Made:
        bench = self.bench
        x, y, ids = bench.images(first)
        before = self._before(budget, first)
        start = self._stored(before.stage, first)
        best, stands = _worst(start), Standing(start["wrong"], start["margin"])
        by, moved = list(before.found), torch.zeros(len(ids), dtype=torch.bool, device=x.device)
        spent = [0, 0]
        for search in bench.searches(budget):
            place = (stands.wrong < 1).nonzero()[:, 0]  # an image of which every held-out answer is wrong is broken
            if not len(place):
                break
            rows = bench.rows(x[place], y[place], ids[place], search.name)
            got = bench.reached(search, rows, best[place])
            new = bench.stands(got.x, y[place], ids[place])
            other = (got.x != best[place]).flatten(1).any(1)  # the same point again differs by rounding at most
            gains = (new.worse_than(stands.at(place)) & other).nonzero()[:, 0]
            best = best.index_copy(0, place[gains], got.x[gains])
            stands = stands.updated(place[gains], new.at(gains))
            moved[place[gains]] = True
            for one in place[gains].tolist():
                by[one] = search.name
            spent[0] += got.gradients
            spent[1] += got.forwards + round(len(place) * bench.held_out * bench.answer)
        # A point that stayed has the answers it had: they are a function of the point, the sample and the seed.
        same = None if before.stage == OBLIVIOUS else before
        line = bench.line(
            adaptive(budget), first, best, found=by, gradients=spent[0], forwards=spent[1], same=same, moved=moved
        )
        return line, {"x": best, "wrong": stands.wrong, "margin": stands.margin}

    def _fixed(self, first: int) -> Made:
        """The deterministic mode, whose draws the attacker knows; a defence that draws nothing was attacked so already."""
        bench, effort = self.bench, self.effort
        x, y, ids = bench.images(first)
        spent = [0, 0]
        for stage in (OBLIVIOUS, adaptive_stage(self.lines, self.info)):
            known = _worst(self._stored(stage, first))
            x = torch.where((bench.mode(x) == y).view(-1, 1, 1, 1), known, x)
        for entrance in bench.own if self.info.randomised else ():
            place = (bench.mode(x) == y).nonzero()[:, 0]
            if not len(place):
                break
            search = Search(FIXED, APGD(steps=SCALE * effort.steps, loss="margin"), entrance, 1)
            rows = bench.rows(bench.images(first)[0][place], y[place], ids[place], f"{FIXED} {entrance.name}")
            got = bench.reached(search, rows, x[place], judge=Steady(bench.wrapped.at(0)))
            x = x.index_copy(0, place, got.x)
            spent = [spent[0] + got.gradients, spent[1] + got.forwards]
        fixed = bench.mode(x)
        line = bench.line(FIXED, first, x, fixed=fixed, gradients=spent[0], forwards=spent[1], score=False)
        return line, {"x": x}

    def _large(self, first: int) -> Made:
        """A few images within a radius that leaves nothing of them."""
        bench, effort = self.bench, self.effort
        x, y, ids = (each[:CHECKED] for each in bench.images(first))
        rows = replace(bench.rows(x, y, ids, LARGE), threat=bench.threat.resized(large(bench.threat, x)))
        best, stands = x, bench.stands(x, y, ids)
        spent = [0, 0]
        for entrance in bench.entrances(min(5, max(self.info.budgets))):
            got = bench.reached(Search(LARGE, APGD(steps=2 * effort.steps, loss="margin"), entrance, 1), rows, best)
            new = bench.stands(got.x, y, ids)
            place = new.worse_than(stands).nonzero()[:, 0]
            best, stands = best.index_copy(0, place, got.x[place]), stands.updated(place, new.at(place))
            spent = [spent[0] + got.gradients, spent[1] + got.forwards]
        return bench.line(LARGE, first, best, gradients=spent[0], forwards=spent[1]), {}

    def _black_box(self, first: int) -> Made:
        """Questions alone, from the clean image, on images that the gradients left right."""
        bench = self.bench
        right = gathered(self.lines, self.info).right(adaptive_stage(self.lines, self.info))
        left = self.ids[(right.mean(1) > 0.5).nonzero()[0][:CHECKED]]
        x, y = tensors(self.subject.source, left, dtype=bench.model.dtype, device=bench.model.device)
        ids = torch.from_numpy(np.ascontiguousarray(left)).to(x.device)
        spent = 0
        if len(ids):
            entrance = Entrance(BLACK_BOX, bench.wrapped, Cost(bench.answer, bench.answer))
            attack = Square(steps=QUERIES, loss="margin")
            got = bench.reached(Search(BLACK_BOX, attack, entrance, 1), bench.rows(x, y, ids, BLACK_BOX), x)
            x, spent = got.x, round(len(ids) * QUERIES * bench.answer)
        return bench.line(BLACK_BOX, first, x, ids=ids, y=y, forwards=spent), {}

    def _before(self, budget: int, first: int) -> Attacked:
        place = self.info.budgets.index(budget)
        return self.lines[adaptive(self.info.budgets[place - 1]) if place else OBLIVIOUS, first]

    def _counted(self, line: Attacked) -> int:
        """How many images a line counts for in the progress: all, where a few stand for them."""
        return len(self.ids) if line.stage in ONCE else len(line.ids)

    def _tell(self, stage: str, images: int, stages: Iterable[str]) -> None:
        step = self.clock.at(stage, images, since=next(iter(stages)))
        if self.watch and step.done > self.told:
            self.watch(step)
        self.told = step.done

    def _stored(self, stage: str, first: int) -> dict[str, Tensor]:
        """What a stage wrote beside its line."""
        return {
            name: value.to(self.bench.model.device) for name, value in read_points(self._file(stage, first)).items()
        }

    def _file(self, stage: str, first: int) -> Path:
        return self.points / f"{stage}-{first}.safetensors"

    def _weights(self) -> dict[str, float]:
        """What an image of each stage costs, roughly, in forwards of the model; a gradient counts for three."""
        bench, effort = self.bench, self.effort
        each = bench.answer
        score = (bench.draws + bench.held_out) * each
        arms = len(self.info.openings) * (2 if self.info.randomised else 1)
        weights = {CLEAN: bench.draws * each, OBLIVIOUS: 15 * SCALE * effort.steps + 4 * bench.held_out * each + score}
        for budget in self.info.budgets:
            search = 3 * effort.steps * effort.restarts * budget + 12 * bench.judge.num * each
            weights[adaptive(budget)] = arms * search + score
        weights[FIXED] = 3 * SCALE * effort.steps * each if self.info.randomised else each
        few = CHECKED / max(1, len(self.ids))
        weights[LARGE] = few * 6 * effort.steps * 5
        weights[BLACK_BOX] = few * QUERIES * each
        return weights


def _worst(points: dict[str, Tensor]) -> Tensor:
    """Those of a stage's points that are worst for the defence."""
    return points.get("worst", points["x"])


def large(threat: Threat, x: Tensor) -> float:
    """A radius that leaves nothing of an image: half of the pixel range everywhere."""
    size = x[0].numel()
    return {"linf": 0.5, "l2": 0.5 * math.sqrt(size), "l1": 0.5 * size}[threat.name]
