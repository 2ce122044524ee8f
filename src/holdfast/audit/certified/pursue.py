"""The attack on a smoothed classifier, from radius to radius."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.room import graphs_at_once
from holdfast.ascent.state import Rows, take
from holdfast.attacks.apgd import APGD
from holdfast.audit.certified.question import Pursuit, Question
from holdfast.audit.defended.search import SCALE, Reached, Search, reached, standing
from holdfast.audit.defended.views import Cost, Entrance, Steady
from holdfast.defences.certificate import ABSTAINS, predict
from holdfast.defences.smoothing import Smoothing
from holdfast.defences.viewed import Viewed
from holdfast.records.certified import Attacked
from holdfast.threats.l2 import L2

GATHERED = 32
"""Images that are attacked together on a CPU."""
JUDGED, HELD_OUT = 20, 50
"""Draws by which a search chooses among its points, and others by which the points of searches are compared."""


def pursued(core: nn.Module, x: Tensor, y: Tensor, ids: Tensor, question: Question) -> list[Attacked]:
    """Attacks images (n, C, H, W) at every radius of the question, each from the points of the one before.

    On the undefended model APGD climbs the margin. On the smoothed classifier it climbs that of the noisy copies' mean
    probability (Salman et al., NeurIPS 2019), from the worse one of its last point and the undefended model's. The copies'
    noise is held within a search; other draws choose among its points and between searches, and none of all these judges:
    those of `holdfast.defences.certificate.predict` do. An image whose answer is a wrong class is searched no more.
    """
    assert question.attack is not None
    smoothed = _Smoothed(core, question, question.attack)
    worst, own = x.clone(), x.clone()
    answer, said = smoothed.answers(x, ids), engine.predict(core, x).argmax(1)
    forwards, gradients = torch.full_like(y, question.attack.predict + 1), torch.zeros_like(y)
    seen = [(answer.clone(), _distance(x, worst), said.clone())]
    root = keys.fold(keys.fold(keys.root(question.seed, device=x.device), ids), keys.number("pursued"))
    for number, radius in enumerate(question.radii[1:]):
        rows = Rows(x, y, torch.full_like(y, -1), keys.fold(root, number), L2(radius))
        place = (said == y).nonzero()[:, 0]
        if len(place):
            got = smoothed.alone(take(rows, place), own[place])
            own[place], said[place] = got.x, engine.predict(core, got.x).argmax(1)
            forwards[place] += got.forwards // len(place) + 1
            gradients[place] += got.gradients // len(place)
        place = ((answer == y) | (answer == ABSTAINS)).nonzero()[:, 0]
        if len(place):
            got = smoothed.worst(take(rows, place), ids[place], (worst[place], own[place]), number)
            worst[place], answer[place] = got.x, smoothed.answers(got.x, ids[place])
            forwards[place] += got.forwards // len(place) + question.attack.predict
            gradients[place] += got.gradients // len(place)
        seen.append((answer.clone(), _distance(x, worst), said.clone()))
    answers, distances, undefended = (torch.stack(column, 1).tolist() for column in zip(*seen))
    columns = (ids.tolist(), y.tolist(), answers, distances, undefended, forwards.tolist(), gradients.tolist())
    return [Attacked(**dict(zip(Attacked.model_fields, row))) for row in zip(*columns)]


def pursuit_cost(question: Question) -> tuple[int, int]:
    """Forwards and gradients of the model that `pursued` takes of an image, at most; none without an attack."""
    if question.attack is None:
        return 0, 0
    asked, radii = question.attack, len(question.radii) - 1
    looks = 2 + asked.restarts * -(-asked.steps // max(5, asked.steps // 6))
    climbed = SCALE * asked.steps + asked.restarts * asked.steps * asked.draws
    alone = 2 + -(-SCALE * asked.steps // max(5, SCALE * asked.steps // 6))
    other = looks * JUDGED + 3 * HELD_OUT + alone + 1 + asked.predict
    return asked.predict + 1 + radii * (climbed + other), radii * climbed


class _Smoothed:
    """The smoothed classifier as its attacker sees it."""

    def __init__(self, core: nn.Module, question: Question, asked: Pursuit) -> None:
        self.core, self.question, self.asked = core, question, asked
        self.model = Smoothing(question.sigma).wrap(core).core

    def answers(self, x: Tensor, ids: Tensor) -> Tensor:
        """Its class at each point, or `ABSTAINS`."""
        given = self.question
        draws, alpha = self.asked.predict, given.alpha
        return predict(self.core, x, ids, sigma=given.sigma, draws=draws, alpha=alpha, seed=given.seed)

    def alone(self, rows: Rows, start: Tensor) -> Reached:
        """The undefended model's worst points that a search from ``start`` finds."""
        entrance = Entrance("undefended", Steady(self.core), Cost(1, 1))
        search = Search(entrance.name, APGD(steps=SCALE * self.asked.steps, loss="margin"), entrance, 1)
        return reached(search, rows, start, entrance.model, 1, graphs_at_once(start.device))

    def worst(self, rows: Rows, ids: Tensor, starts: Sequence[Tensor], number: int) -> Reached:
        """The points at which the most copies are wrong: of ``starts``, and of a search from the worst of them.

        ``number``: of the radius, which has draws of its own.
        """
        single, draws = self._averaged(1, number), self.asked.draws
        best = starts[0]
        stands = standing(single, best, rows.y, ids, HELD_OUT)

        def compare(other: Tensor) -> None:
            nonlocal best, stands
            new = standing(single, other, rows.y, ids, HELD_OUT)
            place = new.worse_than(stands).nonzero()[:, 0]
            best, stands = best.index_copy(0, place, other[place]), stands.updated(place, new.at(place))

        for other in starts[1:]:
            compare(other)
        entrance = Entrance("probabilities", self._averaged(draws, number), Cost(draws, draws))
        search = Search(entrance.name, APGD(steps=self.asked.steps, loss="margin"), entrance, self.asked.restarts)
        got = reached(search, rows, best, self._averaged(JUDGED, number), JUDGED, graphs_at_once(best.device))
        compare(got.x)
        return Reached(best, got.gradients, got.forwards + (len(starts) + 1) * HELD_OUT * len(rows))

    def _averaged(self, draws: int, number: int) -> Viewed:
        """The mean probability over so many copies."""
        seed = int(keys.fold(keys.root(self.question.seed), number))
        return Viewed(self.model, Smoothing(self.question.sigma, num_draws=draws, seed=seed))


def _distance(x0: Tensor, x: Tensor) -> Tensor:
    """The L2 distance of each pair of images, (n,) float64."""
    return (x.double() - x0.double()).flatten(1).norm(dim=1)
