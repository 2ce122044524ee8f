"""Losses whose departure from the tangent is known, and directions among weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import losses
from holdfast.ascent.frozen import frozen
from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.controls import untrained
from holdfast.explain.questions.loss_surface import LossSurface
from holdfast.foundation.errors import BadValue
from holdfast.losses import Loss
from holdfast.models.load import load
from holdfast.models.model import Model
from holdfast.probes.linearity import fault, linearity_error, tangent
from holdfast.probes.parameter_plane import filter_normalised, over_parameters
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

SHAPE = (1, 4, 4)
CURVED = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)
CURVED[3] = 4.0


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is tested here."""
    monkeypatch.setattr("holdfast.explain.compare.REPEATS", 20)


class Net16(nn.Module):
    """Two classes; the difference of their logits is ``slope`` times the sum of what exceeds 1/2."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([torch.zeros(16), torch.full((16,), slope)]))
            self.head.bias.copy_(torch.tensor([0.0, -8 * slope]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def bowl(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """A quadratic of pixels, which stand for logits."""
    return 0.5 * (CURVED * (logits - 0.4).square()).sum(1)


def sample(n: int = 5) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.05 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0)).double().clamp(-2, 2)
    return x, torch.arange(n) % 2


def case(*modules: nn.Module, n: int = 6) -> Case:
    x = 0.5 + 0.05 * np.random.default_rng(0).standard_normal((n, *SHAPE)).clip(-2, 2)
    labels = (x.mean((1, 2, 3)) > 0.5).astype(np.int64)
    named = [
        Net(f"net {place}", load(each, shape=SHAPE), "twin" if place else "model") for place, each in enumerate(modules)
    ]
    return Case(tuple(named), from_pair(x, labels, class_names=["low", "high"]), Linf(0.1))


def test_a_linear_loss_is_its_tangent_and_a_bowl_departs_by_its_curvature() -> None:
    x, y = sample()
    start = Linf(0.1).sample(x, torch.arange(5))
    straight = linearity_error(Net16(), losses.margin, x, y, start, threat=Linf(0.1), steps=5)
    assert straight.abs().max() < 1e-12
    flat: Any = torch.nn.Flatten()
    loss: Loss = bowl
    bent = linearity_error(flat, loss, x, y, start, threat=Linf(0.1), steps=10)
    assert bent == pytest.approx(torch.full((5,), 0.5 * 0.01 * float(CURVED.sum())).double())  # at any corner
    start = x.clone()
    start.flatten(1)[:, [3, 4]] += torch.tensor([0.25, 0.1])
    round_ = linearity_error(flat, loss, x, y, start, threat=L2(0.3), steps=20)
    limit = 0.5 * 0.09 * float(CURVED.max())  # along the axis that is bent most
    assert bool((round_ <= limit * (1 + 1e-9)).all()) and bool((round_ > 0.97 * limit).all())
    alone = linearity_error(flat, loss, x[3:4], y[3:4], start[3:4], threat=L2(0.3), steps=20)
    assert alone == pytest.approx(round_[3:4])
    huge = linearity_error(flat, lambda z, y, t: bowl(z, y, t) * math.nan, x, y, start, threat=Linf(0.1), steps=2)
    assert bool(huge.isnan().all())


def test_faults() -> None:
    x, y = sample()
    good = tangent(Net16(), losses.margin, x, y)
    assert fault(good) == "" and good.grad.abs().sum() > 0
    assert "the same for all 5" in fault(tangent(lambda x: torch.ones(len(x), 2), losses.margin, x, y))
    assert "zero on 5 of 5" in fault(tangent(lambda x: x.detach().flatten(1)[:, :2], losses.margin, x, y))
    assert "not finite" in fault(tangent(lambda x: Net16()(x) * math.inf, losses.margin, x, y))


def test_directions_have_the_lengths_of_the_filters() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        net[0].weight[1].zero_()  # type: ignore[index, union-attr]
    found, again, other = (filter_normalised(net, seed) for seed in (0, 0, 1))
    for name, weight in net.named_parameters():
        way = found[name]
        assert way.shape == weight.shape and torch.equal(way, again[name])
        if weight.dim() > 1:
            assert way.flatten(1).norm(dim=1) == pytest.approx(weight.detach().flatten(1).norm(dim=1), rel=1e-6)
            assert not torch.equal(way, other[name])
        else:
            assert not bool(way.any())
    bigger = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    bigger.load_state_dict({name: 3 * value for name, value in net.state_dict().items()})
    assert torch.allclose(filter_normalised(bigger, 0)["3.weight"], 3 * found["3.weight"])


def test_the_plane_of_weights_is_exact_and_the_net_is_not_touched() -> None:
    torch.manual_seed(0)
    net = nn.Linear(16, 2).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, second = filter_normalised(net, 0), filter_normalised(net, 1)
    x = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)).double()
    seen = over_parameters(net, (first, second), [-1.0, 0.0, 0.5], [0.0, 2.0], lambda moving: moving(x))
    assert seen.shape == (2, 3, 4, 2)
    exact = net(x).detach() + 0.5 * x @ first["weight"].T + 2 * x @ second["weight"].T
    assert torch.allclose(seen[1, 2], exact) and torch.allclose(seen[0, 1], net(x).detach())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(each.requires_grad and each.grad is None for each in net.parameters())


def test_numbers_of_a_linear_net() -> None:
    asked = case(Net16(4.0), Net16(1.0))
    probe = LossSurface(steps=10, points=5, grid=5)
    found = probe.ask(asked, lambda *_: None)
    batch = asked.batch(asked.nets[0])
    signed = torch.where(batch.y == 1, 1.0, -1.0) * (4 * (batch.x.flatten(1).sum(1) - 8))
    exact = {at: torch.nn.functional.softplus(-(signed - at * 4 * 16 * 0.1)) for at in (0.0, 1.0)}
    line = found.arrays["net 0/along"]
    assert line.shape == (6, 5)
    assert line[:, 2] == pytest.approx(exact[0.0].numpy(), rel=1e-5)
    assert line[:, 3] == pytest.approx(exact[1.0].numpy(), rel=1e-3)
    row: Any = found.tables[0].rows[0]
    slope = torch.sigmoid(-signed) * 4 * 16 * 0.1
    assert row[3].value == pytest.approx(float(np.median((exact[1.0] - exact[0.0]).numpy())), rel=1e-3)
    assert row[4].value == pytest.approx(float(np.median(slope.numpy())), rel=1e-3)
    # A softplus lies furthest above its tangent at one of the two ends of its range.
    ends = [torch.nn.functional.softplus(-signed + by * 6.4) - exact[0.0] - by * slope for by in (1, -1)]
    error = torch.maximum(*ends).numpy()
    reached = np.array(found.of_images["net 0"]["linearity error"], dtype=float)
    assert (reached <= error * (1 + 1e-6)).all() and (reached >= 0.5 * error).all() and (reached > 0.99 * error).any()
    assert "bent more than that of net 1" in " ".join(found.sentences)
    middle: Any = found.tables[1].rows[0][1]
    assert middle.value == pytest.approx(float(exact[0.0].mean()))
    assert found.arrays["net 0/bump"][2, 2] == pytest.approx(middle.value)
    again = probe.ask(asked, lambda *_: None)
    assert all(np.array_equal(found.arrays[key], again.arrays[key]) for key in found.arrays)


def test_figures_controls_and_what_cannot_be_looked_at() -> None:
    torch.manual_seed(0)
    asked = case(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    )
    control = untrained(asked.nets[0].model)
    assert control is not None
    module = asked.nets[0].model.module
    bare = replace(asked.nets[0].model, module=lambda x: module(x))
    asked = replace(asked, nets=(asked.nets[0], Net("function", bare, "twin"), control))
    probe = LossSurface(steps=2, points=3, grid=3)
    with frozen(module):
        found = probe.ask(asked, lambda *_: None)
    assert [row[0] for row in found.tables[1].rows] == ["net 0", "untrained"]
    words = json.loads(json.dumps(found.words))
    assert words["weights"] == ["net 0", "untrained"]
    figures = probe.draw(replace(found, words=words))
    assert [each.name for each in figures] == ["along", "relief", "weights"]
    assert all(each.chart.to_dict() for each in figures)
    constant: Any = Model(**{**vars(bare), "module": lambda x: 0 * Net16()(x)})
    broken = probe.ask(replace(asked, nets=(Net("constant", constant),)), lambda *_: None)
    assert broken.breaches and not broken.tables and probe.draw(broken) == ()
    for settings in ({"grid": 4}, {"points": 1}, {"steps": 0}, {"span": 0.0}):
        with pytest.raises(BadValue):
            LossSurface(**settings)  # type: ignore[arg-type]
