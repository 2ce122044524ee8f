"""Attacks made to transfer, diversified and targeted starts of PGD, surrogates, and the transfer matrix."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.diverse import shrunk
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.momentum import accumulated
from holdfast.ascent.state import Rows
from holdfast.attacks.di import DI
from holdfast.attacks.fab import FAB
from holdfast.attacks.mim import MIM
from holdfast.attacks.ni import NI
from holdfast.attacks.pgd import PGD
from holdfast.attacks.si import SI
from holdfast.attacks.ti import TI, smoothed
from holdfast.attacks.vmi import VMI
from holdfast.audit.transfer import crafted, transfer_matrix
from holdfast.foundation.errors import BadData, BadModel, BadValue
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

SETS = [Linf(0.1), L2(0.25), L1(0.25)]
each_set = pytest.mark.parametrize("threat", SETS, ids=lambda threat: threat.name)


def small(seed: int = 0, inputs: int = 48, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 20), nn.Tanh(), nn.Linear(20, classes)).double()


def images(count: int = 6, shape: tuple[int, int, int] = (3, 4, 4)) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rows_of(x: Tensor, y: Tensor, threat, seed: int = 0) -> Rows:
    return Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(seed), torch.arange(len(x))), threat)


class Threshold(nn.Module):
    """Class 1 where the mean pixel is below ``limit``."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean - self.limit, self.limit - mean], 1)


class Answers(nn.Module):
    """The labels that another model gives, as logits without a gradient; counts what it is asked."""

    def __init__(self, model: nn.Module, classes: int = 2) -> None:
        super().__init__()
        self.model, self.classes, self.asked = model, classes, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        with torch.no_grad():
            return F.one_hot(self.model(x).argmax(1), self.classes).to(x.dtype)


# The attacks


@each_set
@pytest.mark.parametrize(
    "plain",
    [TI(kernel=1), DI(probability=0.0), SI(copies=1, nesterov=False)],
    ids=repr,
)
def test_without_their_change_they_are_mim(plain: Attack, threat):
    net, x = small(), images()
    y = net(x).argmax(1)
    ours, mim = plain(net, x, y, threat=threat), MIM()(net, x, y, threat=threat)
    torch.testing.assert_close(ours.x, mim.x, rtol=0, atol=1e-12)
    assert torch.equal(ours.fooled, mim.fooled)


@each_set
@pytest.mark.parametrize("attack", [NI(), SI(), VMI(neighbours=3), VMI(neighbours=3, nesterov=True)], ids=repr)
def test_the_optimum_of_a_linear_model_is_reached(attack: Attack, threat):
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double(), images()
    with torch.no_grad():
        net[1].bias += 10 * (torch.tensor([1.0, 0.0]) - net[1].bias)  # far from the boundary: nothing is fooled
    y = torch.zeros(len(x), dtype=torch.int64)
    weight = (net[1].weight[1] - net[1].weight[0]).detach()
    found = dataclasses.replace(attack, loss="margin")(net, x, y, threat=threat)
    rise = -found.margin - (net(x)[:, 1] - net(x)[:, 0]).detach()
    dual = {"linf": weight.norm(p=1), "l2": weight.norm(), "l1": weight.abs().max()}[threat.name]
    torch.testing.assert_close(rise, (threat.eps * dual).expand(len(x)), rtol=1e-9, atol=1e-9)


def test_ni_evaluates_the_look_ahead_inside_the_set():
    net, x = small(), images()
    y, threat = net(x).argmax(1), Linf(0.1)
    seen: list[Tensor] = []

    def watched(at: Tensor) -> Tensor:
        seen.append(at.detach().clone())
        return net(at)

    attack = NI(steps=3)
    state = attack.begin(net, rows_of(x, y, threat))
    state = attack.step(watched, state)
    first = state
    attack.step(watched, state)
    assert torch.equal(seen[0], x)
    step = 0.1 / 3 * first.velocity
    torch.testing.assert_close(seen[1], threat.project(x, first.x + step))
    torch.testing.assert_close(first.velocity.abs().mean((1, 2, 3)), torch.ones(len(x), dtype=x.dtype))


@pytest.mark.parametrize("nesterov", [False, True])
def test_si_sums_the_gradients_of_darker_copies(nesterov: bool):
    net, x = small(), images()
    y, threat = net(x).argmax(1), Linf(0.1)
    attack = SI(steps=2, copies=4, nesterov=nesterov)
    state = attack.begin(net, rows_of(x, y, threat))
    for _ in range(4):
        assert torch.equal(state.x, x)  # no move before the last copy
        state = attack.step(net, state)
    at = x.clone().requires_grad_()
    total = sum(losses.ce(net(at / 2**i), y, torch.full_like(y, -1)).sum() for i in range(4))
    grad = torch.autograd.grad(total, at)[0]
    torch.testing.assert_close(state.velocity, accumulated(torch.zeros_like(x), grad, 1.0))
    torch.testing.assert_close(state.x, x + 0.05 * grad.sign())


def test_vmi_tunes_by_the_neighbours_of_the_last_point():
    net, x = small(), images()
    y, threat, none = net(x).argmax(1), Linf(0.1), torch.full((6,), -1)
    attack = VMI(steps=2, neighbours=3)
    rows = rows_of(x, y, threat)
    state = attack.begin(net, rows)
    while not bool(state.done.all()):
        state = attack.step(net, state)
    assert int(state.count[0]) == attack.steps_on(threat) == 5

    def grad(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(losses.ce(net(at), y, none).sum(), at)[0]

    def draw(count: int) -> Tensor:
        return 0.15 * (2 * keys.uniform(keys.fold(rows.key, count), x.shape[1:], dtype=x.dtype) - 1)

    first = grad(x)
    velocity = accumulated(torch.zeros_like(x), first, 1.0)
    moved = threat.project(x, x + 0.05 * velocity.sign())
    variance = sum(grad(x + draw(count)) for count in (1, 2, 3)) / 3 - first
    velocity = accumulated(velocity, grad(moved) + variance, 1.0)
    torch.testing.assert_close(state.x, threat.project(x, moved + 0.05 * velocity.sign()))


@pytest.mark.parametrize("shape", [(3, 9, 14), (1, 1, 6), (2, 28, 28)])
def test_shrinking_is_resizing_and_padding(shape: tuple[int, int, int]):
    x = images(4, shape).requires_grad_()

    def wide(value: int) -> Tensor:
        return torch.full((4,), value, dtype=torch.float64)

    for size, place in ((shape[1], 0), (max(1, shape[1] - 2), min(1, shape[1] - 1)), (max(1, shape[1] // 2), 0)):
        width, left = max(1, shape[2] - 3), 2
        ours = shrunk(x, [wide(size), wide(width)], [wide(place), wide(left)])
        theirs = F.interpolate(x, size=(size, width), mode="bilinear", align_corners=False)
        theirs = F.pad(theirs, (left, shape[2] - width - left, place, shape[1] - size - place))
        torch.testing.assert_close(ours, theirs)
        weights = torch.randn_like(x)
        grads = [torch.autograd.grad((each * weights).sum(), x, retain_graph=True)[0] for each in (ours, theirs)]
        torch.testing.assert_close(*grads)


def test_every_row_is_shrunk_to_its_own_size():
    x = images(3, (1, 8, 8))
    sizes = [torch.tensor([8.0, 6.0, 5.0]), torch.tensor([8.0, 7.0, 4.0])]
    places = [torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 3.0])]
    together = shrunk(x, sizes, places)
    for i in range(3):
        one = slice(i, i + 1)
        assert torch.equal(
            together[one], shrunk(x[one], [size[one] for size in sizes], [place[one] for place in places])
        )
    torch.testing.assert_close(together[0], x[0])
    assert together[1, :, :2].abs().max() < 1e-6 and together[2, :, 6:].abs().max() < 1e-6


@pytest.mark.parametrize("kernel", [3, 7, 15])
def test_smoothing_is_a_gaussian_convolution(kernel: int):
    grad = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line = torch.linspace(-3, 3, kernel, dtype=torch.float64).square().div(-2).exp()
    line = line / line.sum()
    weight = torch.outer(line, line).expand(3, 1, kernel, kernel)
    torch.testing.assert_close(smoothed(grad, kernel), F.conv2d(grad, weight, padding="same", groups=3))


@pytest.mark.parametrize(
    "attack", [SI(steps=4), SI(steps=4, nesterov=False), DI(probability=1.0, smallest=0.5)], ids=repr
)
def test_a_changed_view_that_fools_is_no_success(attack: Attack):
    """Darker or shrunk, every image falls below the limit; in the set, none can."""
    x = torch.full((3, 1, 6, 6), 0.8)
    y = torch.zeros(3, dtype=torch.int64)
    found = attack(Threshold(0.6), x, y, threat=Linf(0.1))
    assert not found.fooled.any()
    torch.testing.assert_close(found.margin, torch.full((3,), 0.2))
    torch.testing.assert_close(found.x, torch.full_like(x, 0.7))
    assert (found.backwards == attack.steps_on(Linf(0.1))).all()


@pytest.mark.parametrize("attack", [DI(probability=1.0), TI(probability=0.5), VMI(neighbours=2)], ids=repr)
def test_seeds_draw_differently_and_repeat(attack: Attack):
    net, x = small(), images()
    y, threat = net(x).argmax(1), L2(0.1)
    one, again, other = (attack(net, x, y, threat=threat, seed=seed).x for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DI(probability=1.5),
        lambda: DI(smallest=0.0),
        lambda: TI(kernel=4),
        lambda: TI(kernel=0),
        lambda: SI(copies=0),
        lambda: VMI(neighbours=0),
        lambda: VMI(beta=0.0),
        lambda: NI(decay=-1.0),
        lambda: PGD(diversify=-1),
        lambda: PGD(diversify=1.5),  # pyrefly: ignore[bad-argument-type]
        lambda: PGD(targets=17),
    ],
)
def test_options_that_make_no_sense_are_refused(make):
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.hint


# PGD's diversified starts and targets


@each_set
def test_diversified_steps_follow_a_random_direction_of_the_logits(threat):
    net, x = small(), images()
    y = net(x).argmax(1)
    rows = rows_of(x, y, threat)
    attack = PGD(steps=3, diversify=2, start="clean")
    state = attack.begin(net, rows)
    weights = 2 * keys.uniform(keys.fold(rows.key, keys.number("output-diversified initialisation")), (4,)).double() - 1
    at = x
    for _ in range(2):
        one = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad((net(one) * weights).sum(), one)
        at = threat.project(x, at + threat.eps * threat.steepest(grad))
        state = attack.step(net, state)
        torch.testing.assert_close(state.x, at)
    plain = PGD(steps=3, start="clean")
    grad = evaluate(net, losses.ce, state).grad
    size = plain.rule(threat).size
    torch.testing.assert_close(attack.step(net, state).x, threat.project(x, at + size * threat.steepest(grad)))
    assert attack.steps_on(threat) == 5 and plain.steps_on(threat) == 3


def test_diversified_searches_keep_the_loss_as_their_value():
    net, x = small(), images()
    y = net(x).argmax(1)
    found = PGD(steps=2, diversify=3)(net, x, y, threat=Linf(0.001))
    torch.testing.assert_close(found.value, losses.ce(net(found.x), y, torch.full_like(y, -1)).detach())


def test_targeted_searches_follow_the_order_of_the_clean_logits():
    ranking = torch.tensor([[3, 1, 2], [0, 2, 1]])
    assert PGD(targets=2, restarts=2).searches(ranking).tolist() == [[3, 1, 3, 1], [0, 2, 0, 2]]
    assert PGD(restarts=2).searches(ranking).tolist() == [[-1, -1], [-1, -1]]


def test_a_target_reaches_what_the_best_wrong_class_hides():
    """Class 1 has the larger logit and never rises above class 0; class 2 is reached by going the other way."""

    class Decoy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            up = x.flatten(1).mean(1) - 0.5
            return torch.stack([0 * up, (1e-2 * up).clamp(max=0.001) - 0.005, -up - 0.06], 1)

    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    threat = Linf(0.1)
    assert not PGD(loss="margin", start="clean")(Decoy(), x, y, threat=threat).fooled.any()
    assert PGD(loss="margin", start="clean", targets=2)(Decoy(), x, y, threat=threat).fooled.all()


# Surrogates


def test_a_refused_claim_goes_on_until_the_model_is_fooled():
    """The surrogate falls below 0.7, the model, which has no gradient, below 0.6; each step darkens by 0.03."""
    x = torch.full((4, 1, 3, 3), 0.8)
    y = torch.zeros(4, dtype=torch.int64)
    model, surrogate = Answers(Threshold(0.6)), Threshold(0.7).train()
    found = MIM()(model, x, y, threat=Linf(0.3), surrogate=surrogate)
    assert found.fooled.all() and surrogate.training
    torch.testing.assert_close(found.distance, torch.full((4,), 0.21))
    # The clean image, the claims at 0.68, 0.65, 0.62 and 0.59, and the point that is kept.
    assert model.asked == 4 * 6
    assert torch.equal(found.margin, torch.full((4,), -1.0)) and torch.equal(
        found.value, losses.ce(*_at(model, found.x, y))
    )


def _at(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return model(x), y, torch.full_like(y, -1)


def test_what_withstands_is_valued_by_the_model():
    x = torch.full((2, 1, 3, 3), 0.8)
    y = torch.zeros(2, dtype=torch.int64)
    model = Threshold(0.4)
    found = MIM()(model, x, y, threat=Linf(0.3), surrogate=Threshold(0.7))
    assert not found.fooled.any()
    torch.testing.assert_close(found.value, losses.ce(*_at(model, found.x, y)))
    torch.testing.assert_close(found.margin, -losses.margin(*_at(model, found.x, y)))


def test_a_surrogate_that_is_the_model_changes_no_verdict():
    net, x = small(), images(20)
    y, threat = net(x).argmax(1), Linf(0.05)
    alone = PGD(targets=2)(net, x, y, threat=threat)
    for surrogate in (net, copy.deepcopy(net)):
        found = PGD(targets=2)(net, x, y, threat=threat, surrogate=surrogate)
        assert torch.equal(found.fooled, alone.fooled) and torch.equal(found.x, alone.x)
        torch.testing.assert_close(found.margin[found.fooled], alone.margin[found.fooled])
        assert torch.equal(found.forwards, alone.forwards + 1)
    assert alone.fooled.any() and not alone.fooled.all()


def test_targets_come_from_the_model_and_not_from_the_surrogate():
    asked: list[Tensor] = []

    class Watching(PGD):
        def searches(self, ranking: Tensor) -> Tensor:
            asked.append(ranking)
            return super().searches(ranking)

    Watching.__module__ = PGD.__module__
    net, other, x = small(), small(1), images()
    y = net(x).argmax(1)
    Watching(steps=2, targets=1)(net, x, y, threat=Linf(0.01), surrogate=other)
    wanted = net(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    assert torch.equal(asked[0][:, 0], wanted)


@pytest.mark.parametrize("surrogate", [small(classes=3), lambda x: small()(x) * torch.nan], ids=["classes", "nan"])
def test_a_surrogate_of_another_kind_is_refused(surrogate):
    net, x = small(), images()
    with pytest.raises(BadModel) as caught:
        MIM()(net, x, net(x).argmax(1), threat=Linf(0.1), surrogate=surrogate)
    assert "surrogate" in str(caught.value)


# The transfer matrix


@pytest.mark.parametrize("attack", [MIM(), PGD(steps=5, restarts=2), DI(), VMI(steps=3, neighbours=2)], ids=repr)
def test_the_diagonal_is_the_white_box_rate_and_a_copy_is_fooled_as_well(attack: Attack):
    models = {"a": small(), "twin": small(), "b": small(1)}
    x = images(24)
    y = models["a"](x).argmax(1)
    y[::5] = models["b"](x).argmax(1)[::5]
    threat = Linf(0.05)
    models["a"].train()
    matrix = transfer_matrix(models, x, y, attack, threat, seed=3)
    assert models["a"].training and matrix.names == ("a", "twin", "b") and matrix.fooled.shape == (3, 3)
    for i, model in enumerate(models.values()):
        right = model(x).argmax(1) == y
        assert int(matrix.n[i]) == int(right.sum()) > 0
        found = attack(model, x, y, threat=threat, seed=3)
        assert float(matrix.fooled[i, i]) == pytest.approx(float(found.fooled[right].double().mean()))
    assert torch.equal(matrix.fooled[0, 0], matrix.fooled[0, 1]) and torch.equal(matrix.fooled[0], matrix.fooled[1])
    assert 0 < float(matrix.fooled[0, 0]) < 1


def test_points_are_crafted_to_the_end_and_without_the_target():
    """MIM stops at 0.68, where its model first falls; crafted on it, the point goes on to the rim of the set."""
    x = torch.full((2, 1, 3, 3), 0.8)
    y = torch.zeros(2, dtype=torch.int64)
    threat = Linf(0.3)
    torch.testing.assert_close(MIM()(Threshold(0.7), x, y, threat=threat).distance, torch.full((2,), 0.12))
    points = crafted(MIM(), Threshold(0.7), x, y, threat=threat)
    torch.testing.assert_close(threat.distance(x, points), torch.full((2,), 0.3))
    matrix = transfer_matrix(
        {"near": Threshold(0.7), "far": Threshold(0.6), "out": Threshold(0.4)}, x, y, MIM(), threat
    )
    assert matrix.fooled.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0]]


def test_a_matrix_that_makes_no_sense_is_refused():
    net, x = small(), images()
    y = net(x).argmax(1)
    with pytest.raises(BadValue):
        transfer_matrix({}, x, y, MIM(), Linf(0.1))
    with pytest.raises(BadData):
        transfer_matrix({"a": net}, x[:0], y[:0], MIM(), Linf(0.1))
    with pytest.raises(BadModel) as caught:
        transfer_matrix({"a": net, "broken": Threshold(float("nan"))}, x, y, MIM(), Linf(0.1))
    assert "broken" in str(caught.value)

    class Nearest(FAB):
        goal = "minimal"

    with pytest.raises(BadValue) as refused:
        transfer_matrix({"a": net}, x, y, Nearest(), Linf(0.1))
    assert "budget" in refused.value.hint
