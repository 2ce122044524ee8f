"""Square in L2 and L1: it uses its whole radius where the pixel box cuts squares off, in L1 on few pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast import keys
from holdfast.ascent.state import Rows
from holdfast.attacks.square import Square
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.threat import Threat


def black() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Images that are black but for a bright stripe, and a linear net that looks at one corner of them."""
    x = torch.zeros(6, 1, 20, 20)
    x[..., 8:10] = 0.9
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 2)).requires_grad_(False)
    weight = torch.zeros(2, 20, 20)
    weight[1, 2:5, 3:6] = 1.0
    net[1].weight.copy_(weight.flatten(1))
    net[1].bias.copy_(torch.tensor([2.5, 0.0]))
    return net.eval(), x, torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize("threat", [L2(1.5), L1(6.0)], ids=lambda threat: threat.name)
def test_every_query_uses_nearly_the_whole_radius(threat: Threat):
    net, x, y = black()
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0), torch.arange(6)), threat)
    attack = Square(steps=60)
    state, sizes = attack.begin(net, rows), []
    for _ in range(50):
        sizes.append(threat.distance(x, state.x))
        assert state.x.min() >= 0 and state.x.max() <= 1
        state = attack.step(net, state)
    lengths = torch.stack(sizes)
    assert lengths.max() <= threat.eps * (1 + 1e-5)
    assert lengths.mean() > 0.95 * threat.eps


def test_in_l1_few_pixels_take_the_change():
    """The projection leaves the tips of the bumps."""
    net, x, y = black()
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0), torch.arange(6)), L1(6.0))
    state = Square(steps=60).begin(net, rows)
    changed = (state.x != x).flatten(1).sum(1)
    assert changed.max() < 0.25 * x[0].numel() and changed.min() >= 6
