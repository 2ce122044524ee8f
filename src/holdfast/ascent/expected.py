"""A search against a classifier that draws: held draws while it climbs, others to choose by, none of those that score it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Meter
from holdfast.ascent.randomised import Randomised
from holdfast.ascent.state import Rows
from holdfast.threats.threat import rows as per_row

SEARCH, SELECT = keys.number("search"), keys.number("select")


@dataclass(frozen=True)
class Expected:
    """What a search found, row by row.

    Args:
        x: the images, (R, C, H, W), inside the set.
        value: the loss at ``x`` on the draws that chose it, (R,): larger than on fresh ones, because it was chosen by it.
        forwards, backwards: evaluations and input gradients of one image, of the classifier that draws: each stands for as
            many of the model as it averages over.
    """

    x: Tensor
    value: Tensor
    forwards: int
    backwards: int


def expected_worst(
    attack: Attack,
    model: Randomised,
    rows: Rows,
    *,
    judge: Randomised | None = None,
    starts: Sequence[Tensor] = (),
    rounds: int = 5,
    every: int = 5,
) -> Expected:
    """The point of the largest expected loss that ``rounds`` runs of ``attack`` pass through.

    Within a run all steps see the same draws (common random numbers), so that losses can be compared and APGD can halve its
    steps; the next run begins at the best point so far and takes others. What is best is decided on draws that no run sees.
    The caller scores with evaluations of its own: `Randomised.at` of any one number is apart from those used here.

    Source: Athalye et al., "Synthesizing robust adversarial examples" (ICML 2018), for the gradient of the expectation; the
    margin on the averaged probabilities, which a classifier that averages within gives an attack of ``loss="margin"``, and
    the start from the undefended model's points were stronger where they were compared.

    Args:
        attack: with the goal ``budget``; the steps of a run are its own.
        model: what the runs differentiate: an opening of a defence.
        rows: what is searched, all at once.
        judge: whose loss chooses; ``model`` unless given. Give the defended classifier where ``model`` is not it.
        starts: points to begin from, (R, C, H, W) each: those of the undefended model. Without any the first run begins as
            the attack does.
        rounds: runs.
        every: after how many steps a point is held against the best one.
    """
    climbed, judged = Meter(model.at(SEARCH, 0)), Meter((judge or model).at(SELECT, 0))
    threat = rows.threat

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            return attack.objective(judged(threat.render(rows.x0, x)), rows.y, rows.target)

    def better(x: Tensor) -> tuple[Tensor, Tensor]:
        found = loss(x)
        rises = found > value
        return torch.where(per_row(rises, x), x, best), torch.where(rises, found, value)

    best = threat.origin(rows.x0)
    value = loss(best)
    for start in starts:
        best, value = better(threat.project(rows.x0, start))
    for turn in range(rounds):
        climbed.classifier = model.at(SEARCH, turn)
        with torch.no_grad():
            state = attack.begin(climbed, rows)
            moved = (best != threat.origin(rows.x0)).flatten(1).any(1)
            state = dataclasses.replace(state, x=torch.where(per_row(moved, best), best, state.x))
            taken = 0
            while not bool(state.done.all()):
                state = attack.step(climbed, state)
                taken += 1
                if taken % every == 0 or bool(state.done.all()):
                    best, value = better(threat.project(rows.x0, state.x))
    count = max(1, len(rows))
    return Expected(
        threat.render(rows.x0, best),
        value,
        (climbed.forwards + judged.forwards) // count,
        climbed.backwards // count,
    )
