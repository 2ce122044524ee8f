"""Attacks whose goal is the smallest distance: what the engine keeps, and when it decides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from holdfast import losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.state import Rows, State, observe_nearest
from holdfast.threats.linf import Linf


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above 0.5: the exact distance of an image x0 is 0.5 - mean in Linf."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@dataclass(frozen=True)
class Shift(Attack):
    """Adds 0.3, 0.1 and 0.2 in turn, plus 0.01 per search: the nearest success is neither the first nor the last."""

    threats = ("linf",)
    goal: ClassVar[str] = "minimal"
    restarts: int = 2

    @property
    def objective(self):
        return lambda logits, y, target: losses.margin(logits, y, torch.full_like(y, -1))

    def searches(self, ranking):
        return torch.arange(self.restarts, 0, -1).repeat(len(ranking), 1)

    def steps_on(self, threat):
        return 4

    def begin(self, model, rows: Rows) -> State:
        return State.at(rows, rows.x0)

    def step(self, model, state: State) -> State:
        logits = model(state.x)
        state = observe_nearest(state, logits, logits[:, 1] - logits[:, 0])
        count = state.count + 1
        shift = torch.tensor([0.3, 0.1, 0.2, 0.0])[count - 1] + 0.01 * state.rows.target
        return dataclasses.replace(state, x=state.rows.x0 + shift.view(-1, 1, 1, 1), count=count, done=count >= 4)


@pytest.mark.parametrize("slots", [1, 2, 5, None])
def test_the_nearest_success_of_all_searches_is_kept(slots):
    x = torch.tensor([0.45, 0.35, 0.25, 0.1]).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    found = Shift()(Threshold(), x, torch.zeros(4, dtype=torch.int64), threat=Linf(0.35), slots=slots)
    torch.testing.assert_close(found.distance[:3], torch.tensor([0.11, 0.21, 0.31]))
    assert found.fooled.tolist() == [True, True, True, False]
    assert (found.forwards == 1 + 2 * 5).all()  # clean, then two searches of 4 steps and the judging, none left out


def test_a_point_beyond_eps_does_not_count():
    x = torch.full((1, 1, 2, 2), 0.25)
    found = Shift()(Threshold(), x, torch.zeros(1, dtype=torch.int64), threat=Linf(0.28))
    assert not found.fooled.any() and float(found.distance) <= 0.28
