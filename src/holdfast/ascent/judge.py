"""The last word on searches that ended: what the classifier itself says of the points that they hand in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.ascent.flight import Flight
from holdfast.ascent.state import State, observe, take
from holdfast.ascent.verdict import Ended
from holdfast.threats.threat import Threat

if TYPE_CHECKING:
    from holdfast.ascent.attack import Attack


def handed_in(flight: Flight, threat: Threat) -> Tensor:
    """The points (R, C, H, W) to judge: the best one of a search that claims success, the last one of any other.

    The last point is the one that a search which ran out of steps has not evaluated yet.
    """
    state = flight.state
    assert state is not None
    shown = torch.where(state.fooled.view(-1, 1, 1, 1), state.best, state.x)
    return threat.project(state.rows.x0, shown)


def judged(
    flight: Flight, shown: Tensor, logits: Tensor, *, attack: Attack, threat: Threat, cost: int, keep: bool
) -> Iterator[Ended | Flight]:
    """What follows from the classifier's answers: searches that ended, and those whose claim it does not confirm.

    Args:
        flight: searches that claim success or are out of steps.
        shown: the points that they handed in, (R, C, H, W); ``logits``: the classifier's there, (R, K).
        cost: in forwards, of an answer.
        keep: keep the points of searches that did not fool, too.

    Yields:
        One for each search, in their order; a search that goes on is a flight of its own.
    """
    state = flight.state
    assert state is not None
    rows = state.rows
    value = attack.objective(logits, rows.y, rows.target)
    # The claims are judged afresh: what the search saw in its own copy of the model does not count.
    refused = state.fooled & (logits.argmax(1) == rows.y)
    after = observe(
        dataclasses.replace(
            state,
            x=shown,
            fooled=torch.zeros_like(state.fooled),
            value=torch.where(state.fooled, -torch.inf, state.value),
            margin=torch.where(state.fooled, torch.inf, state.margin),
        ),
        logits,
        value,
    )
    # ``best`` is a point of the set that the classifier judged, or the best one that the search copy saw.
    images = threat.render(rows.x0, after.best)
    columns = zip(
        refused.tolist(),
        rows.y.tolist(),
        logits.argmax(1).tolist(),
        after.fooled.tolist(),
        after.value.tolist(),
        after.margin.tolist(),
        threat.distance(rows.x0, after.best).tolist(),
        after.count.tolist(),
        flight.spent.tolist(),
    )
    for i, (goes_on, label, answer, fooled, best, margin, distance, steps, (forwards, backwards)) in enumerate(columns):
        if goes_on:
            one = torch.tensor([i], device=rows.y.device)
            spent = flight.spent[i : i + 1] + torch.tensor([cost, 0])
            yield Flight([flight.place[i]], spent, _going_on(take(state, one), take(after, one)))
            continue
        position, search = flight.place[i]
        yield Ended(
            position=position,
            search=search,
            label=label,
            fooled=fooled,
            predicted=answer if fooled else label,
            value=best,
            margin=margin if fooled else max(margin, 0.0),
            distance=distance,
            steps=steps,
            forwards=forwards + cost,
            backwards=backwards,
            x=images[i].clone() if fooled or keep else None,
        )


def _going_on(state: State, after: State) -> State:
    """A search whose claim was refused: it goes on from where it is and keeps its point as it was judged."""
    return dataclasses.replace(state, best=after.best, value=after.value, margin=after.margin, fooled=after.fooled)
