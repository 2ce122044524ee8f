"""A defended model set up for attack and for scoring: what every stage of its audit works with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.meter import Classifier
from holdfast.ascent.randomised import Randomised
from holdfast.ascent.room import graphs_at_once
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.search import Reached, Search, Standing, reached, searches, standing
from holdfast.audit.defended.views import CORE, Averaged, Cost, Entrance, Steady, core_of, cost, drawing, entrances
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.defences.defence import Defence
from holdfast.models.model import Model
from holdfast.probes.estimands import evaluations
from holdfast.records.defended import Attacked, DefendedInfo
from holdfast.threats.threat import Threat

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


class Bench:
    """The defended model, its images, and the ways into it.

    ``module``: the model without a defence, ``core`` the copy of it that searches see, ``wrapped`` the defended one.
    ``draws``: evaluations that score an image, ``held_out`` those that choose among points. ``answer``: forwards of the
    model that one of them takes.
    """

    def __init__(self, subject: Subject, info: DefendedInfo) -> None:
        self.subject, self.info = subject, info
        self.model, self.threat, self.effort = subject.model, subject.threat, subject.effort
        self.module = core_of(self.model)
        self.wrapped: Randomised = drawing(subject.defence.wrap(self.module))
        self.draws = info.evaluations if info.randomised else 1
        self.held_out = self.effort.held_out if info.randomised else 1
        self.at_once = graphs_at_once(self.model.device)
        self.ids = np.asarray(subject.source.ids)
        self.sample = self.images(0)[0][:8]
        self.answer = max(1.0, cost(subject.defence, self.module, self.sample))
        self.core = search_copy(self.module, self.sample).module
        self._entrances: dict[int, list[Entrance]] = {}

    def images(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a chunk."""
        ids = self.ids[first : first + self.info.chunk]
        x, y = tensors(self.subject.source, ids, dtype=self.model.dtype, device=self.model.device)
        return x, y, torch.from_numpy(np.ascontiguousarray(ids)).to(x.device)

    def rows(self, x: Tensor, y: Tensor, ids: Tensor, name: str) -> Rows:
        """Rows of a search of that name, with draws of its own."""
        key = keys.fold(keys.fold(keys.root(self.info.seed, device=x.device), ids), keys.number(name))
        return Rows(x, y, torch.full_like(y, -1), key, self.threat)

    @cached_property
    def judge(self) -> Averaged:
        """The defended model on enough draws to tell two points apart."""
        return Averaged(self.wrapped, max(1, math.ceil(ENOUGH / self.answer)) if self.info.randomised else 1)

    @cached_property
    def own(self) -> list[Entrance]:
        """The openings in the deterministic mode, with the defence's own number of draws."""
        every = Cost(self.answer, self.answer)
        return [
            Entrance(each.name, Steady(drawing(each.classifier).at(0)), every)
            for each in self.subject.defence.openings(self.module)
            if each.name != CORE and not each.flat
        ]

    def entrances(self, draws: int) -> list[Entrance]:
        """The openings, with so many draws each."""
        if draws not in self._entrances:
            self._entrances[draws] = entrances(
                self.subject.defence, self.module, draws, self.sample[:2], randomised=self.info.randomised
            )
        return self._entrances[draws]

    def searches(self, budget: int) -> Iterator[Search]:
        """Those of the adaptive attack at that budget."""
        draws = budget if self.info.randomised else 1
        yield from searches(
            self.entrances(draws),
            self.entrances(1),
            budget,
            steps=self.effort.steps,
            restarts=self.effort.restarts,
            randomised=self.info.randomised,
        )

    def reached(self, search: Search, rows: Rows, start: Tensor, judge: Randomised | None = None) -> Reached:
        """Where a search gets from ``start``; ``judge`` chooses among its points, that of the bench unless given."""
        judge, times = (self.judge, self.judge.num) if judge is None else (judge, 1)
        return reached(search, rows, start, judge, times * self.answer, self.at_once)

    def stands(self, x: Tensor, y: Tensor, ids: Tensor) -> Standing:
        """How bad the points are for the defence."""
        return standing(self.wrapped, x, y, ids, self.held_out)

    def mode(self, x: Tensor) -> Tensor:
        """What the deterministic mode answers."""
        return answered(self.wrapped.at(0), x)

    def line(
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
            undefended=tuple(answered(self.model, x).tolist()),
            defended=tuple(tuple(row) for row in said.tolist()),
            fixed=() if fixed is None else tuple(fixed.tolist()),
            found=tuple(found),
            gradients=gradients,
            forwards=forwards + round(len(place) * self.draws * self.answer),
        )


def answered(model: Classifier | Randomised, x: Tensor) -> Tensor:
    """The classes that it gives the images, (n,) int64."""
    if not len(x):
        return torch.zeros(0, dtype=torch.int64)
    return torch.cat([engine.predict(model, part).argmax(1) for part in x.split(64)])
