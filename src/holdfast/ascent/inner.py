"""The inner maximisation of training: a batch of searches to their ends, each at its own; nothing is judged."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, take


def worst(attack: Attack, model: Classifier, rows: Rows) -> Tensor:
    """The last points of the searches, (R, C, H, W) in [0, 1], as they are: an attack that does not project stays outside.

    A search that is done is evaluated no more, and its point stays where it is. ``model`` is evaluated as it stands: put it
    into the mode that the attack is to see.
    """
    with torch.no_grad():
        state = attack.begin(model, rows)
        x, place = state.x.clone(), torch.arange(len(rows), device=rows.y.device)
        while True:
            if bool(state.done.any()):
                x[place] = state.x
                # Dropping rows at once costs less than carrying any of them on, also where few end at a time.
                (going,) = (~state.done).nonzero(as_tuple=True)
                state, place = take(state, going), place[going]
            if not len(place):
                return rows.threat.render(rows.x0, x).clamp(0, 1)
            state = attack.step(model, state)
