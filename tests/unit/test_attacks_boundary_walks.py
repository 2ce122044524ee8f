"""DeepFool, SparseFool, LBFGS, JSMA and FAB on models whose nearest misclassified point is known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.linearised import onto
from holdfast.ascent.state import Rows
from holdfast.attacks.deep_fool import DeepFool
from holdfast.attacks.fab import FAB
from holdfast.attacks.jsma import JSMA
from holdfast.attacks.lbfgs import LBFGS
from holdfast.attacks.sparse_fool import SparseFool
from holdfast.foundation.errors import BadValue
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat, room

FAR = {"l2": L2(1e3), "linf": Linf(1), "l1": L1(1e4), "l0": L0(1000)}
SHAPE = (3, 4, 4)


def linear(classes: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model and 12 images around grey, far enough from black and white for every boundary."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)).double()
        x = 0.4 + 0.2 * torch.rand(12, *shape, dtype=torch.float64)
    return net, x, net(x).argmax(1)


def two(weight: Tensor, bias: float) -> nn.Module:
    """Class 1 where weight . x exceeds bias."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-weight / 2, weight / 2]))
        net[1].bias.copy_(torch.tensor([bias / 2, -bias / 2]))
    return net


def nearest(net: nn.Module, x: Tensor, y: Tensor, dual: float) -> Tensor:
    """The distance to the nearest boundary of a linear model without a box."""
    logits, weight = net(x).detach(), net[1].weight.detach()
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weight[None] - weight[y][:, None]).norm(p=dual, dim=2)
    return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1)


def boxed(threat: Threat, x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """The shortest change of a gain of ``offset`` in L2 or Linf, by bisection over how far the pixels move."""
    limit = room(x, weight.expand_as(x))
    speed = weight.abs() if threat.name == "l2" else torch.ones_like(weight)
    low, high = torch.zeros_like(offset), torch.full_like(offset, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        gain = (weight.abs() * torch.minimum(speed * middle.view(-1, 1, 1, 1), limit)).flatten(1).sum(1)
        low, high = torch.where(gain < offset, middle, low), torch.where(gain < offset, high, middle)
    return torch.minimum(speed * high.view(-1, 1, 1, 1), limit) * weight.sign()


# The step onto a plane.


@pytest.mark.parametrize("threat", FAR.values(), ids=FAR)
def test_the_step_onto_a_plane_is_the_shortest_inside_the_box(threat):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    weight = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    limit = room(x, weight.expand_as(x))
    offset = torch.linspace(0.05, 0.6, 6, dtype=torch.float64) * (weight.abs() * limit).flatten(1).sum(1)
    step = onto(threat, x, weight.expand_as(x), offset)
    gain = (weight * step).flatten(1).sum(1)
    assert (x + step).min() >= 0 and (x + step).max() <= 1
    if threat.name in ("l2", "linf"):
        torch.testing.assert_close(step, boxed(threat, x, weight, offset))
    elif threat.name == "l1":
        torch.testing.assert_close(gain, offset)
        # Of two values that may still move and that were moved, the one moved has the larger gradient.
        for one, space in zip(step.flatten(1), limit.flatten(1)):
            moved, free = one != 0, one.abs() < space - 1e-12
            assert weight.flatten().abs()[moved].min() >= weight.flatten().abs()[free & (space > 0)].max() - 1e-12
    else:
        worth = (weight.abs() * limit).sum(1).flatten(1).sort(descending=True).values.cumsum(1)
        fewest = (worth < offset[:, None]).sum(1) + 1
        assert (gain >= offset).all() and torch.equal(threat.distance(x, x + step).long(), fewest)


def test_a_gradient_of_zero_gives_no_step():
    x = torch.rand(2, 1, 2, 2)
    for threat in FAR.values():
        assert (onto(threat, x, torch.zeros_like(x), torch.tensor([50.0, 1e-3])) == 0).all()


# DeepFool.


@pytest.mark.parametrize("classes", [2, 3, 100])
@pytest.mark.parametrize(("name", "dual"), [("l2", 2), ("linf", 1)])
def test_deep_fool_finds_the_nearest_boundary_of_a_linear_model(name, dual, classes):
    net, x, y = linear(classes)
    exact = nearest(net, x, y, dual)
    attack = DeepFool(candidates=classes - 1 if classes < 100 else 30)
    found = attack(net, x, y, threat=FAR[name])
    assert found.fooled.all()
    torch.testing.assert_close(found.distance, exact, rtol=2.1e-3, atol=0)
    assert (found.backwards <= min(attack.candidates, classes - 1) + 1 + attack.halvings).all()
    first = dataclasses.replace(attack, halvings=0)(net, x, y, threat=FAR[name])
    torch.testing.assert_close(first.distance, 1.02 * exact)  # the overshoot, and nothing else
    within = attack(net, x, y, threat=FAR[name].resized(float(exact.median() * 1.01)))
    assert torch.equal(within.fooled, exact * 1.0021 <= exact.median() * 1.01)


def test_deep_fool_looks_at_more_classes_than_the_largest_logit():
    # The second class has the larger logit, the third the nearer boundary.
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0.1, 0, 0, 0], [0, 5.0, 0, 0]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.1, -3.0]))
    x, y = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    one, more = (DeepFool(candidates=k)(net, x, y, threat=L2(9)).distance for k in (1, 2))
    assert float(one) >= 0.5 and float(more) == pytest.approx(0.1, rel=3e-3)


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_deep_fool_is_not_held_by_pixels_at_the_edge_of_the_box(name):
    # 60 of 64 pixels are black and would have to become darker: a step that is only clipped ends far from the boundary.
    weight = torch.cat([-torch.ones(60), torch.ones(4)]).double()
    x = torch.cat([torch.zeros(60), torch.full((4,), 0.3)]).double().view(1, 1, 8, 8)
    found = DeepFool(steps=2)(two(weight, 2.0), x, torch.tensor([0]), threat=FAR[name])
    exact = boxed(FAR[name], x, weight.view(1, 8, 8), torch.tensor([0.8]).double())
    assert found.fooled.all() and float(found.distance) <= 1.003 * float(FAR[name].distance(x, x + exact))


def test_deep_fool_ends_where_there_is_no_gradient_and_leaves_a_tie():
    x, y = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    flat = DeepFool()(two(torch.zeros(4).double(), 1.0), x, y, threat=L2(1))
    assert not flat.fooled.any() and (flat.backwards == 1).all()
    tie = DeepFool()(two(torch.ones(4).double(), 2.0), x, y, threat=L2(1))
    assert tie.fooled.all() and float(tie.distance.max()) < 1e-6


def test_deep_fool_spends_its_steps_and_no_more():
    class Receding(nn.Module):
        """The boundary is always twice as far away as it looks, and never reached."""

        def forward(self, x):
            z = -((1.5 - x.flatten(1).mean(1)).clamp_min(0) ** 2)
            return torch.stack([torch.zeros_like(z), z - 0.1, z - 0.2], 1)

    x = torch.full((2, 1, 2, 2), 0.1, dtype=torch.float64)
    found = DeepFool(steps=3)(Receding(), x, torch.zeros(2, dtype=torch.int64), threat=Linf(0.05))
    assert not found.fooled.any() and (found.backwards <= 3 * 2).all()


# SparseFool and JSMA.


def test_sparse_fool_finds_the_nearest_point_in_l1_of_a_linear_model():
    net, x, y = linear(2)
    weight = (net[1].weight[1] - net[1].weight[0]).detach().view(SHAPE)
    gap = (net(x).gather(1, y[:, None]) - net(x).gather(1, 1 - y[:, None]))[:, 0].detach()
    toward = torch.where(y.view(-1, 1, 1, 1) == 0, weight, -weight)
    exact = L1(1).distance(x, x + onto(L1(1), x, toward, gap))
    found = SparseFool()(net, x, y, threat=FAR["l1"])
    assert found.fooled.all()
    assert (found.distance >= exact - 1e-9).all() and (found.distance <= 1.003 * exact).all()


@pytest.mark.parametrize("attack", [SparseFool(), JSMA(targets=0), JSMA(targets=1)], ids=repr)
def test_the_fewest_pixels_are_changed_on_a_linear_model(attack):
    net, x, y = linear(2, seed=3)
    with torch.no_grad():
        net[1].weight *= 4  # several pixels are needed
        net[1].bias[0] += 0.6
    y = net(x).argmax(1)
    weight = (net[1].weight[1] - net[1].weight[0]).detach().view(SHAPE)
    gap = (net(x).gather(1, y[:, None]) - net(x).gather(1, 1 - y[:, None]))[:, 0].detach()
    toward = torch.where(y.view(-1, 1, 1, 1) == 0, weight, -weight)
    fewest = L0(1).distance(x, x + onto(L0(1), x, toward, gap))
    assert fewest.max() >= 2
    found = attack(net, x, y, threat=FAR["l0"])
    assert found.fooled.all() and torch.equal(found.distance, fewest)
    within = attack(net, x, y, threat=L0(int(fewest.max()) - 1))
    assert torch.equal(within.fooled, fewest < fewest.max())


def test_jsma_changes_no_pixel_twice_and_no_more_than_it_may():
    net, x, _ = linear(4)
    with torch.no_grad():
        net[1].bias[0] += 100  # out of reach
    y = torch.zeros(len(x), dtype=torch.int64)
    found = JSMA(targets=2)(net, x, y, threat=L0(5))
    assert not found.fooled.any() and (found.distance == 5).all() and (found.backwards == 2 * 5).all()
    assert ((found.x == 0) | (found.x == 1) | (found.x == x)).all()
    every = JSMA(targets=1)(net, x, y, threat=L0(1000))
    assert (every.backwards <= 17).all()  # 16 pixels, and one look that finds nothing left
    assert (JSMA(targets=1, steps=2)(net, x, y, threat=L0(5)).distance == 2).all()


# LBFGS.


@pytest.mark.parametrize("memory", [1, 10])
def test_lbfgs_finds_the_nearest_point_with_and_without_the_box(memory):
    net, x, y = linear(2)
    x = torch.cat([x, (4 * x - 1.5).clamp(0, 1)])
    y = net(x).argmax(1)
    weight = (net[1].weight[1] - net[1].weight[0]).detach().view(SHAPE)
    gap = (net(x).gather(1, y[:, None]) - net(x).gather(1, 1 - y[:, None]))[:, 0].detach()
    exact = torch.cat(
        [boxed(L2(1), x[i : i + 1], weight if y[i] == 0 else -weight, gap[i : i + 1]) for i in range(len(x))]
    )
    found = LBFGS(memory=memory)(net, x, y, threat=FAR["l2"])
    assert found.fooled.all()
    assert (found.distance >= L2(1).distance(x, x + exact) * (1 - 1e-9)).all()
    assert (found.distance <= 1.01 * L2(1).distance(x, x + exact)).all()


def test_lbfgs_moves_pixels_that_are_black_or_white():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    found = LBFGS()(two(torch.ones(16).double(), 4.0), x, torch.tensor([0]), threat=L2(2))
    assert found.fooled.all() and float(found.distance) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_lbfgs_does_not_depend_on_the_scale_of_the_logits(scale):
    net, x, y = linear(5)
    exact = nearest(net, x, y, 2)
    with torch.no_grad():
        net[1].weight *= scale
        net[1].bias *= scale
    found = LBFGS(targets=4)(net, x, y, threat=FAR["l2"])
    assert found.fooled.all() and (found.distance <= 1.02 * exact).all()


# FAB.


def test_fab_restarts_begin_within_half_of_eps_and_the_first_search_at_the_image():
    net, x, y = linear(4)
    attack = FAB(targets=2, restarts=3)
    ranking = torch.tensor([[1, 2, 3]] * len(x))
    targets = attack.searches(ranking)
    assert targets.shape == (len(x), 6)
    logits = net(x).detach()
    for search in range(6):
        key = keys.fold(keys.root(0), torch.arange(len(x)))
        rows = Rows(x, y, targets[:, search], keys.fold(key, search), L2(0.4))
        distance = L2(0.4).distance(x, attack.begin(net, rows).x)
        assert (distance == 0).all() if search < 2 else ((distance > 0) & (distance <= 0.2 + 1e-9)).all()
        wanted = logits[:, 1 + search % 2] - logits.gather(1, y[:, None])[:, 0]
        torch.testing.assert_close(attack.objective(logits, y, targets[:, search]), wanted)
    assert torch.equal(FAB(targets=0, restarts=2).searches(ranking)[:, 0], torch.full((len(x),), -1))
    assert torch.equal(FAB(targets=2).searches(ranking), ranking[:, :2])


def test_fab_survives_a_model_without_gradients():
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    net = two(torch.zeros(16).double(), 50.0).float()
    found = FAB(steps=3)(net, x, y, threat=L2(1))
    assert not found.fooled.any() and torch.isfinite(found.x).all()


# All.

WALKS = [
    (DeepFool(steps=3), "l2"),
    (SparseFool(steps=3), "l1"),
    (LBFGS(steps=6, weights=3), "l2"),
    (JSMA(targets=2), "l0"),
    (FAB(steps=5, targets=2, restarts=2), "l2"),
]


@pytest.mark.parametrize(("attack", "name"), WALKS, ids=lambda each: getattr(each, "__class__", each).__name__)
def test_the_same_seed_gives_the_same_bits(attack, name):
    net, x, y = linear(4)
    threat = L0(3) if name == "l0" else FAR[name].resized(0.3)
    one, other = (attack(net, x, y, threat=threat, seed=7) for _ in range(2))
    assert all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DeepFool(steps=0),
        lambda: DeepFool(candidates=0),
        lambda: DeepFool(overshoot=-0.1),
        lambda: DeepFool(halvings=-1),
        lambda: SparseFool(reach=0.5),
        lambda: SparseFool(strides=0),
        lambda: LBFGS(memory=0),
        lambda: LBFGS(targets=17),
        lambda: JSMA(steps=0),
        lambda: FAB(restarts=0),
    ],
)
def test_options_out_of_range_are_refused_with_a_hint(make):
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.hint
