"""A net and its defences at points found without them, and at points found through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.ascent.randomised import Randomised
from holdfast.ascent.room import graphs_at_once
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows, take
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.audit.defended.bench import ENOUGH
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.search import SCALE, Standing, climbed, reached, searches, standing
from holdfast.audit.defended.views import Averaged, core_of, cost, drawing, entrances
from holdfast.data.fingerprint import digest
from holdfast.defences.defence import Defence
from holdfast.defences.viewed import at_once
from holdfast.imaging.pool import contents
from holdfast.models.model import Model
from holdfast.probes.estimands import evaluations
from holdfast.records.document import read_document
from holdfast.records.files import write_atomic
from holdfast.records.schema import Frozen
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

TARGET = keys.number("target")
MARGIN = "margin"


class Answers(Frozen):
    """Column -> what ``defended`` evaluations say of each image, (n, m), and what the ``model`` says of it, (n,)."""

    defended: dict[str, tuple[tuple[int, ...], ...]]
    model: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnderAttack:
    """A net, the images it is attacked on, and how hard.

    Args:
        model: the net.
        x, y, ids: images (n, C, H, W), labels (n,), and what makes each image's draws its own, (n,) int64.
        threat: the set.
        pgd: after how many steps of ``step_size`` oblivious points are taken.
        effort: of the adaptive attack, and how many evaluations score a point.
        seed: of every draw of the attacks.
    """

    model: Model
    x: Tensor
    y: Tensor
    ids: Tensor
    threat: Threat
    pgd: tuple[int, ...]
    step_size: float
    effort: Effort
    seed: int

    @cached_property
    def points(self) -> dict[str, Tensor]:
        """Column -> the images (n, C, H, W): clean, and at the end of searches on the net alone.

        PGD as published, constant steps whose last point counts, away from the true label; "own-label": away from the net's
        own prediction, as the authors' code has it, which leads images that are misclassified towards their class;
        "targeted": towards a random wrong class. ``MARGIN``, for the net and as a start: APGD on the margin.
        """
        other = keys.integers(keys.fold(self._key("target"), TARGET), (1,), self.model.classes - 1)[:, 0]
        none = torch.full_like(self.y, -1)
        found = {"clean": self.x}
        with frozen(self.model.module):
            core = search_copy(self.model.module, self.x[:32]).module
            own = said(core, self.x)
            for kind, y, target in (
                ("", self.y, none),
                ("own-label ", own, none),
                ("targeted ", self.y, other + (other >= self.y)),
            ):
                rows = Rows(self.x, y, target, self._key(kind), self.threat)
                ends = passed(PGD(steps=max(self.pgd), step_size=self.step_size), core, rows, self.pgd)
                found |= {f"{kind}PGD-{steps}": x for steps, x in zip(self.pgd, ends)}
            rows = Rows(self.x, self.y, none, self._key(MARGIN), self.threat)
            strong = APGD(steps=SCALE * self.effort.steps, loss="margin")
            found[MARGIN] = _in_parts(rows, lambda part: [climbed(strong, core, part)])[0]
        return found

    def answers(self, defence: Defence, folder: Path, name: str) -> Answers:
        """What the net behind a defence says of `points`, and of those that the adaptive attack finds, column by column.

        Written to the folder, and read from there if it was asked before.
        """
        asked = digest(
            repr(defence), repr((self.threat, self.pgd, self.step_size, self.effort, self.seed)), *self._what
        )
        path = folder / f"{name}-{asked}.json"
        if path.exists():
            return read_document(path, Answers)
        module = core_of(self.model)
        with frozen(self.model.module):
            wrapped = drawing(defence.wrap(module))
            seen = {column: x for column, x in self.points.items() if column != MARGIN}
            seen |= {column_of(budget): x for budget, x in self._adaptive(defence, wrapped)}
            found = Answers(
                defended={
                    column: _plain(evaluations(wrapped, x, self.ids, self.effort.evaluations))
                    for column, x in seen.items()
                },
                model={column: tuple(said(self.model, x).tolist()) for column, x in (seen | self.points).items()},
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, [found.model_dump_json().encode()])
        return found

    def _adaptive(self, defence: Defence, wrapped: Randomised) -> Iterator[tuple[int, Tensor]]:
        """Each budget with the points that are worst for the defence so far, the first from the net's own points on."""
        module, sample = core_of(self.model), self.x[:2]
        answer = max(1.0, cost(defence, module, sample))
        judge = Averaged(wrapped, math.ceil(ENOUGH / answer))
        graphs = graphs_at_once(self.x.device)
        best, stands = self.x, self._stands(wrapped, self.x)
        for column in (MARGIN, *(f"{kind}PGD-{max(self.pgd)}" for kind in ("", "own-label ", "targeted "))):
            best, stands = _worse(best, stands, self.points[column], self._stands(wrapped, self.points[column]))
        single = entrances(defence, module, 1, sample, randomised=True)
        for budget in self.effort.budgets:
            seen = entrances(defence, module, budget, sample, randomised=True)
            hunt = searches(
                seen, single, budget, steps=self.effort.steps, restarts=self.effort.restarts, randomised=True
            )
            for search in hunt:
                place = (stands.wrong < 1).nonzero()[:, 0]  # an image of which every held-out answer is wrong is broken
                if not len(place):
                    break
                key = self._key(search.name)[place]
                rows = Rows(self.x[place], self.y[place], torch.full_like(place, -1), key, self.threat)
                got = reached(search, rows, best[place], judge, judge.num * answer, graphs).x
                part, new = _worse(best[place], stands.at(place), got, self._stands(wrapped, got, place))
                best, stands = best.index_copy(0, place, part), stands.updated(place, new)
            yield budget, best

    def _stands(self, wrapped: Randomised, x: Tensor, place: Tensor | slice = slice(None)) -> Standing:
        return standing(wrapped, x, self.y[place], self.ids[place], self.effort.held_out)

    def _key(self, name: str) -> Tensor:
        return keys.fold(keys.fold(keys.root(self.seed, device=self.x.device), self.ids), keys.number(name))

    @cached_property
    def _what(self) -> tuple[str, ...]:
        return self.model.fingerprint, *(each.hex() for each in contents(self.x)), *map(str, self.ids.tolist())


def column_of(budget: int) -> str:
    """The column of the adaptive attack up to a budget of draws."""
    return f"adaptive, K = {budget}"


def passed(attack: Attack, model: Classifier, rows: Rows, steps: Sequence[int]) -> list[Tensor]:
    """Where the searches are after each of these numbers of steps, (R, C, H, W) each."""

    def climb(part: Rows) -> list[Tensor]:
        with torch.no_grad():
            state, found = attack.begin(model, part), {}
            for step in range(1, max(steps) + 1):
                state = attack.step(model, state)
                if step in steps:
                    found[step] = part.threat.render(part.x0, state.x)
            return [found[step] for step in steps]

    return _in_parts(rows, climb)


def said(model: Classifier, x: Tensor) -> Tensor:
    """The classes that a classifier gives images, (n,) int64."""
    return torch.cat([engine.predict(model, part).argmax(1) for part in x.split(at_once(x))])


def _in_parts(rows: Rows, search: Callable[[Rows], list[Tensor]]) -> list[Tensor]:
    """What a search finds, in parts of a size that the device likes."""
    parts = torch.arange(len(rows), device=rows.y.device).split(at_once(rows.x0))
    return [torch.cat(each) for each in zip(*(search(take(rows, place)) for place in parts))]


def _worse(x: Tensor, stands: Standing, other: Tensor, its: Standing) -> tuple[Tensor, Standing]:
    """Of two points for each image the one that is worse for the defence, and where it stands."""
    moved = its.worse_than(stands)
    kept = Standing(torch.where(moved, its.wrong, stands.wrong), torch.where(moved, its.margin, stands.margin))
    return torch.where(per_row(moved, x), other, x), kept


def _plain(found: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, found.tolist()))
