"""DDN, FMN, CW, EAD: known distances on linear models, and the failures that such attacks are known for."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from holdfast.ascent.adam import adam
from holdfast.ascent.attack import Attack
from holdfast.ascent.constant import Weighed, advanced
from holdfast.ascent.nearing import waning
from holdfast.ascent.state import Rows
from holdfast.attacks.cw import CW
from holdfast.attacks.ddn import DDN
from holdfast.attacks.ead import EAD
from holdfast.attacks.fmn import FMN
from holdfast.foundation.errors import BadValue
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

WIDE = {"linf": Linf(1), "l2": L2(1e3), "l1": L1(1e6), "l0": L0(10_000)}
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
# The excess over the nearest distance that 100 steps leave.
LINEAR = [
    (DDN(), "l2", 0.05),
    (FMN(), "l2", 0.01),
    (FMN(), "linf", 0.01),
    (FMN(), "l1", 0.1),
    (CW(steps=50, abort=False), "l2", 0.02),
    (CW(steps=50), "linf", 0.02),
    (EAD(steps=50), "l1", 0.2),
]


class Linear(nn.Module):
    """Two classes: the second logit is ``scale`` times ``w . x + b``, the first is 0."""

    def __init__(self, weight: Tensor, bias: Tensor | float, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = weight, bias, scale

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * ((x * self.weight).flatten(1).sum(1) + self.bias)
        return torch.stack([torch.zeros_like(score), score], 1)


def linear(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """The model, 6 grey images far from the box, their labels, and their scores, all negative."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    x = (0.45 + 0.1 * torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64)).to(dtype)
    net = Linear(weight, 0.0)
    score = net(x)[:, 1]
    net = Linear(weight, float(-score.max() - 0.3), scale)
    return net, x, torch.zeros(6, dtype=torch.int64), score - score.max() - 0.3


@pytest.mark.parametrize(("attack", "name", "excess"), LINEAR, ids=lambda v: getattr(type(v), "__name__", None))
def test_the_nearest_point_of_a_linear_model(attack: Attack, name: str, excess: float):
    net, x, y, score = linear()
    found = attack(net, x, y, threat=WIDE[name])
    least = -score / net.weight.flatten().norm(p=DUAL[name])
    assert found.fooled.all()
    assert (found.distance >= least * (1 - 1e-9)).all()
    assert (found.distance / least - 1).max() <= excess


def test_the_fewest_pixels_of_a_linear_model():
    """Every pixel gives at most the sum over its channels of weight times room; as many as reach the boundary are needed."""
    net, x, y, score = linear()
    net, score = Linear(net.weight, net.bias - 6), score - 6
    gain = torch.where(net.weight > 0, 1 - x, x) * net.weight.abs()
    together = gain.sum(1).flatten(1).sort(dim=1, descending=True).values.cumsum(1)
    least = (together < -score[:, None]).sum(1) + 1
    found = FMN()(net, x, y, threat=WIDE["l0"])
    assert found.fooled.all() and least.max() > 1
    assert (found.distance >= least).all() and (found.distance <= least + 1).all()


@pytest.mark.parametrize(("attack", "name", "excess"), LINEAR[:4], ids=lambda v: getattr(type(v), "__name__", None))
def test_only_points_within_eps_count(attack: Attack, name: str, excess: float):
    net, x, y, score = linear()
    least = -score / net.weight.flatten().norm(p=DUAL[name])
    eps = float(least.median()) * 1.02 * (1 + excess)
    found = attack(net, x, y, threat=WIDE[name].resized(eps))
    assert found.fooled[least * (1 + excess) < eps].all() and not found.fooled[least > eps].any()
    assert found.fooled.any() and not found.fooled.all() and found.distance.max() <= eps * (1 + 1e-6)


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_cw_moves_black_and_white_pixels(name: str):
    """With the paper's change of variables pixels that are exactly 0 or 1 never move (seen in torchattacks)."""
    net, _, y, _ = linear(dtype=torch.float32)
    x = (torch.arange(48).view(1, 3, 4, 4) % 2).float()
    net = Linear(net.weight, float(net.bias - net(x)[0, 1] - 1))
    found = CW(steps=30)(net, x, y[:1], threat=WIDE[name])
    inward = ((net.weight > 0) == (x == 0)) & (net.weight.abs() > net.weight.abs().mean())
    assert found.fooled.all()
    for colour in (0, 1):
        assert (found.x != x)[inward & (x == colour)].float().mean() > 0.9


@pytest.mark.parametrize("attack", [FMN(), CW(steps=40, abort=False)], ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("scale", [1e-2, 1e3])
def test_the_scale_of_the_logits_hardly_matters(attack: Attack, scale: float):
    net, x, y, _ = linear()
    scaled, *_ = linear(scale)
    one, other = (attack(model, x, y, threat=WIDE["l2"]).distance for model in (net, scaled))
    assert (other / one - 1).abs().max() <= 0.1


def test_a_vanishing_gradient_does_not_stop_ddn():
    """Logits so large that the gradient of the cross-entropy is exactly 0 at the image."""
    net, x, y, _ = linear(1e4, torch.float32)
    assert DDN(steps=200)(net, x, y, threat=WIDE["l2"]).fooled.all()


class Steep(nn.Module):
    """A linear model whose gradients are ten thousand times too long, as those of masked models are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return 1e4 * z - (1e4 * z - z).detach()


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
def test_fmn_is_not_stopped_by_gradients_that_promise_too_much(name: str):
    """The linearised boundary is always a hair away; the paper's search follows it and never arrives."""
    net, x, y, score = linear()
    found = FMN(steps=60)(Steep(net), x, y, threat=WIDE[name])
    least = -score / net.weight.flatten().norm(p=DUAL[name])
    assert found.fooled.all() and (found.distance <= 1.5 * least).all()


class Never(nn.Module):
    """The first class everywhere, with gradients that say otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        score = -1 - (-x.flatten(1).sum(1)).exp()
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "l0"])
def test_a_radius_that_grows_for_ever_stays_a_number(name: str):
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    for attack in [FMN(steps=600)] + [DDN(steps=300, gamma=0.5)] * (name == "l2"):
        found = attack(Never(), x, torch.zeros(1, dtype=torch.int64), threat=WIDE[name])
        assert not found.fooled.any() and torch.isfinite(found.x).all() and torch.isfinite(found.value).all()


def test_every_step_is_paid_for_and_no_more():
    net, x, y, _ = linear()
    for attack, name in ((CW(steps=7, rounds=3, abort=False), "l2"), (EAD(steps=7, rounds=3, abort=False), "l1")):
        found = attack(net, x, y, threat=WIDE[name])
        assert (found.backwards == 21).all() and attack.steps_on(WIDE[name]) == 21
    aborted = CW(steps=50, rounds=3)(net, x, y, threat=WIDE["l2"])
    assert (aborted.backwards < 150).any()
    assert (CW()(net, x[:2], y[:2], threat=WIDE["linf"]).backwards < 900).all()  # tau is known to a thousandth before


def test_ead_leaves_what_it_need_not_change_as_it_is():
    weight = torch.zeros(3, 4, 4)
    weight[0, 1, 2], weight[2, 3, 3], weight[1, 0, 0] = 2.0, -1.0, 0.01
    x = torch.full((2, 3, 4, 4), 0.3)
    found = EAD(steps=40)(Linear(weight, -1.0), x, torch.zeros(2, dtype=torch.int64), threat=WIDE["l1"])
    assert found.fooled.all()
    assert torch.equal((found.x != x).any(0), (weight.abs() > 0.5) & (found.x != x).any(0))


def test_adam_goes_a_whole_step_along_a_constant_gradient():
    """After any number of steps: the moments' biases are taken out exactly, each row by its own count."""
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    first = second = torch.zeros_like(grad)
    for k in range(12):
        step, first, second = adam(first, second, grad, torch.full((3,), k), 12)
        torch.testing.assert_close(step, grad.sign(), rtol=1e-6, atol=1e-6)
    new = adam(torch.zeros_like(grad), torch.zeros_like(grad), grad, torch.zeros(3, dtype=torch.int64), 12).step
    first[0], second[0] = 0, 0
    mixed = adam(first, second, grad, torch.tensor([0, 5, 9]), 12).step
    assert torch.equal(mixed[0], new[0])


def test_waning_falls_from_its_first_to_its_last_value():
    like = torch.zeros(1, dtype=torch.float64)
    values = waning(torch.arange(11), 10, 2.0, 0.5, like)
    assert float(values[0]) == 2.0 and float(values[10]) == 0.5 and float(values[5]) == pytest.approx(1.25)
    assert (values.diff() < 0).all()


def test_the_constant_is_bracketed_and_bisected():
    """A constant is large enough from 0.02 and from 300 upwards: both are closed in on, each row on its own."""
    x = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    label = torch.zeros(2, dtype=torch.int64)
    state = Weighed.opening(Rows(x, label, label - 1, label, L2(1)), 1.0)
    enough = torch.tensor([0.02, 300.0], dtype=torch.float64)
    for _ in range(12):
        state = dataclasses.replace(state, hit=state.constant >= enough)
        state, ended = advanced(state, enough, 1, abort=False)
        assert ended.all()
    assert (state.low < enough).all() and (enough <= state.high).all()
    assert (state.high / state.low < 1.02).all()
    assert state.round.tolist() == [12, 12] and state.tick.tolist() == [0, 0]


def test_a_success_in_the_first_steps_alone_does_not_count():
    """Fooled at the first step and never again: the constant was too small."""
    x = torch.zeros(1, 1, 1, 1)
    label = torch.zeros(1, dtype=torch.int64)
    state = Weighed.opening(Rows(x, label, label - 1, label, L2(1)), 1.0)
    state = dataclasses.replace(state, hit=torch.ones(1, dtype=torch.bool))
    for _ in range(20):
        state, ended = advanced(state, torch.zeros(1), 20, abort=False)
    assert ended.all() and float(state.constant) == 10.0 and float(state.low) == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDN(steps=0), lambda: DDN(gamma=1.0), lambda: DDN(radius=0), lambda: DDN(step_size=-1.0),
        lambda: FMN(gamma=0), lambda: FMN(step_size=0), lambda: CW(rounds=0), lambda: CW(rate=0.0),
        lambda: CW(constant=0.0), lambda: EAD(beta=-1.0), lambda: EAD(step_size=0.0), lambda: EAD(steps=2.5),  # pyrefly: ignore
    ],
)  # fmt: skip
def test_fields_are_checked(make):
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.hint
