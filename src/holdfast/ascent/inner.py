"""The inner maximisation of training: every row of a batch takes every step; nothing leaves early, nothing is judged."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows


def worst(attack: Attack, model: Classifier, rows: Rows) -> Tensor:
    """The last points of the searches, (R, C, H, W) in [0, 1], as they are: an attack that does not project stays outside.

    ``model`` is evaluated as it stands: put it into the mode that the attack is to see.
    """
    with torch.no_grad():
        state = attack.begin(model, rows)
        while not bool(state.done.all()):
            state = attack.step(model, state)
    return rows.threat.render(rows.x0, state.x).clamp(0, 1)
