"""The searches of an audit of a defence: those on the model alone, those on the defended model, and how points compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack, ranking
from holdfast.ascent.expected import expected_worst
from holdfast.ascent.meter import Classifier
from holdfast.ascent.randomised import Randomised
from holdfast.ascent.state import Rows, take
from holdfast.attacks.apgd import APGD
from holdfast.attacks.mim import MIM
from holdfast.attacks.pgd import PGD
from holdfast.audit.defended.views import Entrance, Redrawn
from holdfast.foundation.errors import BadModel
from holdfast.losses import margin

CHOOSE = keys.number("choose")
TARGET = keys.number("target of an oblivious attack")
TARGETS = 3
"""How many wrong classes are targets, those of the largest clean logits."""
SCALE = 5
"""How many times the steps of the adaptive search a search on the model alone takes."""
DECAY = 0.9
"""Of the momentum of a search that draws anew at every step: it averages over the last ten or so."""


@dataclass(frozen=True)
class Standing:
    """How bad points are for the defence, on draws that no search saw: ``wrong``, (n,): the share of evaluations that are
    wrong; ``margin``, (n,): the mean over them of the best wrong log-probability less the true one."""

    wrong: Tensor
    margin: Tensor

    def worse_than(self, other: Standing) -> Tensor:
        """Whether each point is worse for the defence than the other, (n,) bool."""
        return torch.where(self.wrong == other.wrong, self.margin > other.margin, self.wrong > other.wrong)

    def at(self, place: Tensor) -> Standing:
        return Standing(self.wrong[place], self.margin[place])

    def updated(self, place: Tensor, new: Standing) -> Standing:
        return Standing(self.wrong.index_copy(0, place, new.wrong), self.margin.index_copy(0, place, new.margin))


def standing(model: Randomised, x: Tensor, y: Tensor, ids: Tensor, num: int, *, batch: int = 64) -> Standing:
    """Where the points ``x`` (n, C, H, W) stand, by ``num`` evaluations with draws of each sample's own.

    Raises:
        BadModel: an answer is not finite.
    """
    wrong, gap = [], []
    with torch.no_grad():
        for part, label, own in zip(x.split(batch), y.split(batch), ids.split(batch)):
            said = [model.at(CHOOSE, number)(part, own).log_softmax(1) for number in range(num)]
            if not all(bool(torch.isfinite(each).any(1).all()) and not bool(each.isnan().any()) for each in said):
                raise BadModel(
                    f"the defended model's answer is not finite near the samples {own.tolist()[:3]}",
                    hint="look for divisions by zero or half-precision overflow in the model",
                )
            none = torch.full_like(label, -1)
            wrong.append(torch.stack([(each.argmax(1) != label).to(part.dtype) for each in said]).mean(0))
            gap.append(torch.stack([margin(each, label, none) for each in said]).mean(0))
    return Standing(torch.cat(wrong), torch.cat(gap)) if wrong else Standing(x.new_zeros(0), x.new_zeros(0))


def on_the_model(model: Classifier, rows: Rows, steps: int) -> dict[str, Tensor]:
    """Attack -> the points (R, C, H, W) of largest loss that it finds on the undefended model.

    Margin and cross-entropy; the margin to each of the likeliest wrong classes, of which the surest point is kept; and, as
    published tables have it, ten steps towards a random class.
    """
    with torch.no_grad():
        logits = model(rows.x0)
    long = SCALE * steps
    wanted = ranking(logits, rows.y)[:, :TARGETS].to(rows.y.device)
    found = {name: climbed(APGD(steps=long, loss=name), model, rows) for name in ("margin", "ce")}
    aimed = [climbed(APGD(steps=long, loss="margin"), model, replace(rows, target=each)) for each in wanted.unbind(1)]
    found["targeted"] = most_certain(model, aimed, rows)
    other = keys.integers(keys.fold(rows.key, TARGET), (1,), logits.shape[1] - 1)[:, 0]
    target = other + (other >= rows.y)
    found["targeted PGD-10"] = climbed(PGD(steps=10), model, replace(rows, target=target))
    return found


def climbed(attack: Attack, model: Classifier, rows: Rows) -> Tensor:
    """The best points of the searches, each to its last step, fooled or not."""
    threat = rows.threat
    with torch.no_grad():
        state = attack.begin(model, rows)
        while not bool(state.done.all()):
            state = attack.step(model, state)
        return threat.render(rows.x0, threat.project(rows.x0, state.best))


def most_certain(model: Classifier, points: Sequence[Tensor], rows: Rows) -> Tensor:
    """Of several points for each row the one at which the model is surest of a wrong class, (R, C, H, W)."""
    none = torch.full_like(rows.y, -1)
    with torch.no_grad():
        values = torch.stack([margin(model(x).log_softmax(1), rows.y, none) for x in points])
    return torch.stack(list(points))[values.argmax(0), torch.arange(len(rows), device=rows.y.device)]


@dataclass(frozen=True)
class Search:
    """One search on the defended model: by ``attack``, on ``entrance``; with other draws at every step or held ones."""

    name: str
    attack: Attack
    entrance: Entrance
    rounds: int
    redrawn: bool = False


def searches(
    seen: Sequence[Entrance], single: Sequence[Entrance], budget: int, *, steps: int, restarts: int, randomised: bool
) -> Iterator[Search]:
    """The searches of a budget, each of ``steps * restarts * budget`` gradients of a draw.

    On every opening APGD on the expectation over ``budget`` draws, and momentum steps with one new draw each. Of a defence
    that draws nothing only the former, with longer runs.

    Args:
        seen: the openings with ``budget`` draws, ``single`` those with one.
    """
    for entrance in seen:
        length = steps if randomised else steps * budget
        draws = f"{budget} draw{'' if budget == 1 else 's'}"
        name = f"{entrance.name}, {draws if randomised else f'{length} steps'}"
        yield Search(name, APGD(steps=length, loss="margin"), entrance, restarts)
    for entrance in single if randomised else ():
        attack = MIM(steps=steps * restarts * budget, decay=DECAY, loss="margin")
        yield Search(f"{entrance.name}, a draw a step, {attack.steps} steps", attack, entrance, 1, redrawn=True)


@dataclass(frozen=True)
class Reached:
    """Where a search got, (R, C, H, W), and what it took of the model, for all rows together."""

    x: Tensor
    gradients: int
    forwards: int


def reached(search: Search, rows: Rows, start: Tensor, judge: Randomised, judged: float, at_once: int) -> Reached:
    """Runs a search from ``start``, (R, C, H, W), and has ``judge`` choose among its points.

    Args:
        judged: forwards of the model that an evaluation of ``judge`` takes.
        at_once: how many evaluations of the model with their graphs fit in memory.
    """
    cost, attack = search.entrance.costs, search.attack
    if search.redrawn and isinstance(
        attack, MIM
    ):  # a step of 2.5 radii in all, as PGD's, reaches the rim from anywhere
        attack = replace(attack, step_size=rows.threat.stride(attack.steps, 2.5))
    model = Redrawn(search.entrance.model) if search.redrawn else search.entrance.model
    size = max(1, int(at_once / max(1.0, cost.gradients)))
    points, gradients, forwards = [], 0.0, 0.0
    for place in torch.arange(len(rows), device=rows.y.device).split(size):
        some = take(rows, place)
        every = max(5, attack.steps_on(rows.threat) // 6)
        found = expected_worst(
            attack, model, some, judge=judge, starts=(start[place],), rounds=search.rounds, every=every
        )
        points.append(found.x)
        gradients += len(some) * found.backwards * cost.gradients
        forwards += len(some) * (found.backwards * cost.forwards + (found.forwards - found.backwards) * judged)
    return Reached(torch.cat(points), round(gradients), round(forwards))
