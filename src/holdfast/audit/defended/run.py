"""Attacks a defended model stage by stage, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier
from holdfast.ascent.randomised import Randomised
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.attacks.square import Square
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.outcome import adaptive_stage, gathered, levels
from holdfast.audit.defended.progress import Clock
from holdfast.audit.defended.search import (
    SCALE,
    Reached,
    Search,
    Standing,
    most_certain,
    on_the_model,
    reached,
    searches,
    standing,
)
from holdfast.audit.defended.views import CORE, Averaged, Cost, Entrance, Steady, core_of, cost, drawing, entrances
from holdfast.audit.divided import Watcher, agree, opened
from holdfast.audit.feed import tensors
from holdfast.audit.ranks import Ranks, taken
from holdfast.data.source import Source
from holdfast.defences.defence import Defence
from holdfast.foundation.errors import BadFile
from holdfast.models.model import Model
from holdfast.probes.estimands import evaluations
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
from holdfast.records.files import write_atomic
from holdfast.records.part import Part
from holdfast.records.schema import CLEAN
from holdfast.threats.threat import Threat

AT_ONCE, AT_ONCE_DEVICE = 96, 2048
"""Evaluations of the model whose graphs are kept at a time, on a CPU and elsewhere: 2 GB of a ResNet-18 on CIFAR images."""
Made = tuple[Attacked, dict[str, Tensor]]

CHECKED, QUERIES = 16, 200
"""How many images the checks of a large radius and of a black box take, and how many questions the latter asks."""
ONCE = (LARGE, BLACK_BOX)
"""The stages that take a few images, at once."""
ENOUGH = 20
"""Draws by which a search chooses among its points, at least."""


@dataclass(frozen=True)
class Subject:
    """What is under test: the model, the images, the defence, the set and the effort."""

    model: Model
    source: Source
    defence: Defence
    threat: Threat
    effort: Effort


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
        self.model, self.threat, self.effort = subject.model, subject.threat, subject.effort
        self.module = core_of(self.model)
        self.points = folder / FOLDER / POINTS
        every = {(line.stage, line.first): line for line in attacked(folder)}
        self.lines = {key: every[key] for key in every if key in store.done}  # another process may be ahead
        self.wrapped: Randomised = drawing(subject.defence.wrap(self.module))
        self.draws = info.evaluations if info.randomised else 1
        self.held_out = self.effort.held_out if info.randomised else 1
        self.at_once = AT_ONCE if self.model.device.type == "cpu" else AT_ONCE_DEVICE
        self.ids = np.asarray(subject.source.ids)
        self.firsts = range(0, len(self.ids), info.chunk)
        self.sample = self.images(0)[0][:8]
        self.answer = max(1.0, cost(subject.defence, self.module, self.sample))
        self.core = search_copy(self.module, self.sample).module
        self.seen: dict[int, list[Entrance]] = {}
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
        on_points = cost(self.subject.defence, self.module, there)
        return Outcome(self.lines, self.answer, on_points, self.clock.seconds)

    def stages(self, work: Mapping[str, Callable[[int], Made]]) -> None:
        """Everything of some stages that is not recorded yet, chunk by chunk; none of them needs what another one finds."""
        every = [(name, first) for name in work for first in (self.firsts[:1] if name in ONCE else self.firsts)]
        own: list[Attacked] = []
        for name, first in taken([key for key in every if key not in self.lines], self.ranks, f"taken {[*work]}"):
            line, points = work[name](first)
            if points:
                kept = {key: value.cpu().contiguous() for key, value in points.items()}
                write_atomic(self.points / f"{name}-{first}.safetensors", [save(kept)])
            self.store.append(line)
            own.append(line)
            self._tell(name, self._counted(line), work)
        agree(self.store, self.ranks)
        for line in chain(*self.ranks.gather(own)):
            self.lines[line.stage, line.first] = line
        self._tell([*work][-1], 0, work)

    # The stages. Each returns its line and its points: ``x``, and ``worst`` for the defence where that is another.

    def _clean(self, first: int) -> Made:
        x, _, ids = self.images(first)
        return self._line(CLEAN, first, x, fixed=self._mode(x), forwards=len(ids)), {}

    def _oblivious(self, first: int) -> Made:
        """Points found on the model alone. The one it is surest of stands for them; the adaptive attack begins at any."""
        x, y, ids = self.images(first)
        rows = self._rows(x, y, ids, OBLIVIOUS)
        found = on_the_model(self.core, rows, self.effort.steps)
        chosen = most_certain(self.core, list(found.values()), rows)
        best, stands, by = x, self._stands(x, y, ids), [CLEAN] * len(ids)
        right, model_right = {}, {}
        for name, points in found.items():
            new = self._stands(points, y, ids)
            right[name] = tuple((1 - new.wrong).tolist())
            model_right[name] = tuple((_said(self.model, points) == y).tolist())
            better = new.worse_than(stands)
            best = torch.where(better.view(-1, 1, 1, 1), points, best)
            by = [name if moved else old for moved, old in zip(better.tolist(), by)]
            stands = stands.updated(better.nonzero()[:, 0], new.at(better.nonzero()[:, 0]))
        steps = SCALE * self.effort.steps * (len(found) + 1) + 10
        line = self._line(
            OBLIVIOUS,
            first,
            chosen,
            fixed=self._mode(chosen),
            found=by,
            gradients=steps * len(ids),
            forwards=round(len(ids) * (steps + self.held_out * len(found) * self.answer)),
        )
        line = line.model_copy(update={"right": right, "model_right": model_right})
        return line, {"x": chosen, "worst": best, "wrong": stands.wrong, "margin": stands.margin}

    def _adaptive(self, first: int, budget: int) -> Made:
        x, y, ids = self.images(first)
        before = self._before(budget, first)
        start = self._stored(before.stage, first)
        best, stands = _worst(start), Standing(start["wrong"], start["margin"])
        by, moved = list(before.found), torch.zeros(len(ids), dtype=torch.bool, device=x.device)
        spent = [0, 0]
        for search in self._searches(budget):
            place = (stands.wrong < 1).nonzero()[:, 0]  # an image of which every held-out answer is wrong is broken
            if not len(place):
                break
            rows = self._rows(x[place], y[place], ids[place], search.name)
            got = self._reached(search, rows, best[place])
            new = self._stands(got.x, y[place], ids[place])
            other = (got.x != best[place]).flatten(1).any(1)  # the same point again differs by rounding at most
            gains = (new.worse_than(stands.at(place)) & other).nonzero()[:, 0]
            best = best.index_copy(0, place[gains], got.x[gains])
            stands = stands.updated(place[gains], new.at(gains))
            moved[place[gains]] = True
            for one in place[gains].tolist():
                by[one] = search.name
            spent[0] += got.gradients
            spent[1] += got.forwards + round(len(place) * self.held_out * self.answer)
        # A point that stayed has the answers it had: they are a function of the point, the sample and the seed.
        same = None if before.stage == OBLIVIOUS else before
        line = self._line(
            adaptive(budget), first, best, found=by, gradients=spent[0], forwards=spent[1], same=same, moved=moved
        )
        return line, {"x": best, "wrong": stands.wrong, "margin": stands.margin}

    def _fixed(self, first: int) -> Made:
        """The deterministic mode, whose draws the attacker knows; a defence that draws nothing was attacked so already."""
        x, y, ids = self.images(first)
        spent = [0, 0]
        for stage in (OBLIVIOUS, adaptive_stage(self.lines, self.info)):
            known = _worst(self._stored(stage, first))
            x = torch.where((self._mode(x) == y).view(-1, 1, 1, 1), known, x)
        for entrance in self._own if self.info.randomised else ():
            place = (self._mode(x) == y).nonzero()[:, 0]
            if not len(place):
                break
            search = Search(FIXED, APGD(steps=SCALE * self.effort.steps, loss="margin"), entrance, 1)
            rows = self._rows(self.images(first)[0][place], y[place], ids[place], f"{FIXED} {entrance.name}")
            got = self._reached(search, rows, x[place], judge=Steady(self.wrapped.at(0)))
            x = x.index_copy(0, place, got.x)
            spent = [spent[0] + got.gradients, spent[1] + got.forwards]
        fixed = self._mode(x)
        line = self._line(FIXED, first, x, fixed=fixed, gradients=spent[0], forwards=spent[1], score=False)
        return line, {"x": x}

    def _large(self, first: int) -> Made:
        """A few images within a radius that leaves nothing of them."""
        x, y, ids = (each[:CHECKED] for each in self.images(first))
        rows = replace(self._rows(x, y, ids, LARGE), threat=self.threat.resized(large(self.threat, x)))
        best, stands = x, self._stands(x, y, ids)
        spent = [0, 0]
        for entrance in self._entrances(min(5, max(self.info.budgets))):
            got = self._reached(
                Search(LARGE, APGD(steps=2 * self.effort.steps, loss="margin"), entrance, 1), rows, best
            )
            new = self._stands(got.x, y, ids)
            place = new.worse_than(stands).nonzero()[:, 0]
            best, stands = best.index_copy(0, place, got.x[place]), stands.updated(place, new.at(place))
            spent = [spent[0] + got.gradients, spent[1] + got.forwards]
        return self._line(LARGE, first, best, gradients=spent[0], forwards=spent[1]), {}

    def _black_box(self, first: int) -> Made:
        """Questions alone, from the clean image, on images that the gradients left right."""
        right = gathered(self.lines, self.info).right(adaptive_stage(self.lines, self.info))
        left = self.ids[(right.mean(1) > 0.5).nonzero()[0][:CHECKED]]
        x, y = tensors(self.subject.source, left, dtype=self.model.dtype, device=self.model.device)
        ids = torch.from_numpy(np.ascontiguousarray(left)).to(x.device)
        spent = 0
        if len(ids):
            entrance = Entrance(BLACK_BOX, self.wrapped, Cost(self.answer, self.answer))
            attack = Square(steps=QUERIES, loss="margin")
            got = self._reached(Search(BLACK_BOX, attack, entrance, 1), self._rows(x, y, ids, BLACK_BOX), x)
            x, spent = got.x, round(len(ids) * QUERIES * self.answer)
        return self._line(BLACK_BOX, first, x, ids=ids, y=y, forwards=spent), {}

    # What they share.

    def images(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a chunk."""
        ids = self.ids[first : first + self.info.chunk]
        x, y = tensors(self.subject.source, ids, dtype=self.model.dtype, device=self.model.device)
        return x, y, torch.from_numpy(np.ascontiguousarray(ids)).to(x.device)

    def _rows(self, x: Tensor, y: Tensor, ids: Tensor, name: str) -> Rows:
        key = keys.fold(keys.fold(keys.root(self.info.seed, device=x.device), ids), keys.number(name))
        return Rows(x, y, torch.full_like(y, -1), key, self.threat)

    @cached_property
    def _judge(self) -> Averaged:
        """The defended model on enough draws to tell two points apart."""
        return Averaged(self.wrapped, max(1, math.ceil(ENOUGH / self.answer)) if self.info.randomised else 1)

    @cached_property
    def _own(self) -> list[Entrance]:
        """The openings in the deterministic mode, with the defence's own number of draws."""
        every = Cost(self.answer, self.answer)
        return [
            Entrance(each.name, Steady(drawing(each.classifier).at(0)), every)
            for each in self.subject.defence.openings(self.module)
            if each.name != CORE and not each.flat
        ]

    def _entrances(self, draws: int) -> list[Entrance]:
        if draws not in self.seen:
            self.seen[draws] = entrances(
                self.subject.defence, self.module, draws, self.sample[:2], randomised=self.info.randomised
            )
        return self.seen[draws]

    def _searches(self, budget: int) -> Iterator[Search]:
        draws = budget if self.info.randomised else 1
        yield from searches(
            self._entrances(draws),
            self._entrances(1),
            budget,
            steps=self.effort.steps,
            restarts=self.effort.restarts,
            randomised=self.info.randomised,
        )

    def _reached(self, search: Search, rows: Rows, start: Tensor, judge: Randomised | None = None) -> Reached:
        judge, times = (self._judge, self._judge.num) if judge is None else (judge, 1)
        return reached(search, rows, start, judge, times * self.answer, self.at_once)

    def _stands(self, x: Tensor, y: Tensor, ids: Tensor) -> Standing:
        return standing(self.wrapped, x, y, ids, self.held_out)

    def _mode(self, x: Tensor) -> Tensor:
        """What the deterministic mode answers."""
        return _said(self.wrapped.at(0), x)

    def _before(self, budget: int, first: int) -> Attacked:
        place = self.info.budgets.index(budget)
        return self.lines[adaptive(self.info.budgets[place - 1]) if place else OBLIVIOUS, first]

    def _line(
        self,
        stage: str,
        first: int,
        x: Tensor,
        *,
        fixed: Tensor | None = None,
        found: Sequence[str] = (),
        gradients: int = 0,
        forwards: int = 0,
        same: Attacked | None = None,
        moved: Tensor | None = None,
        score: bool = True,
        ids: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Attacked:
        """Scores the points. ``same``: a line whose answers hold for every image that has not ``moved`` since."""
        if ids is None or y is None:
            _, y, ids = (each[: len(x)] for each in self.images(first))
        said = torch.zeros(len(x), self.draws if score else 0, dtype=torch.int64)
        place = torch.arange(len(x) if score else 0)
        if same is not None:
            said = torch.tensor(same.defended, dtype=torch.int64)
            place = place[:0] if moved is None else moved.cpu().nonzero()[:, 0]
        if len(place):
            on = place.to(x.device)
            said[place] = evaluations(self.wrapped, x[on], ids[on], self.draws).cpu()
        return Attacked(
            stage=stage,
            first=first,
            ids=tuple(ids.tolist()),
            label=tuple(y.tolist()),
            undefended=tuple(_said(self.model, x).tolist()),
            defended=tuple(tuple(row) for row in said.tolist()),
            fixed=() if fixed is None else tuple(fixed.tolist()),
            found=tuple(found),
            gradients=gradients,
            forwards=forwards + round(len(place) * self.draws * self.answer),
        )

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
        file = self.points / f"{stage}-{first}.safetensors"
        try:
            return {name: value.to(self.model.device) for name, value in load_file(file).items()}
        except (OSError, SafetensorError, ValueError) as error:
            raise BadFile(f"{file} cannot be read: {error}", hint="start again in a new folder") from None

    def _weights(self) -> dict[str, float]:
        """What an image of each stage costs, roughly, in forwards of the model; a gradient counts for three."""
        effort, each = self.effort, self.answer
        score = (self.draws + self.held_out) * each
        arms = len(self.info.openings) * (2 if self.info.randomised else 1)
        weights = {CLEAN: self.draws * each, OBLIVIOUS: 15 * SCALE * effort.steps + 4 * self.held_out * each + score}
        for budget in self.info.budgets:
            search = 3 * effort.steps * effort.restarts * budget + 12 * self._judge.num * each
            weights[adaptive(budget)] = arms * search + score
        weights[FIXED] = 3 * SCALE * effort.steps * each if self.info.randomised else each
        few = CHECKED / max(1, len(self.ids))
        weights[LARGE] = few * 6 * effort.steps * 5
        weights[BLACK_BOX] = few * QUERIES * each
        return weights


def _worst(points: dict[str, Tensor]) -> Tensor:
    """Those of a stage's points that are worst for the defence."""
    return points.get("worst", points["x"])


def _said(model: Classifier | Randomised, x: Tensor) -> Tensor:
    """The classes that it gives the images, (n,) int64."""
    if not len(x):
        return torch.zeros(0, dtype=torch.int64)
    return torch.cat([engine.predict(model, part).argmax(1) for part in x.split(64)])


def large(threat: Threat, x: Tensor) -> float:
    """A radius that leaves nothing of an image: half of the pixel range everywhere."""
    size = x[0].numel()
    return {"linf": 0.5, "l2": 0.5 * math.sqrt(size), "l1": 0.5 * size}[threat.name]
