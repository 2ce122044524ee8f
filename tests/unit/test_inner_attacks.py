"""The inner attacks of training: searches that end early, the divergence as their loss, and unions of sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_outer_losses import EPS, LINF, SIZE, Net, chances, climb, entropy, examples, held, logits
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.inner import worst
from holdfast.ascent.state import Rows, State
from holdfast.attacks.apgd import APGD
from holdfast.attacks.friendly import Friendly
from holdfast.attacks.pgd import PGD
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.alp import ALP
from holdfast.objectives.avmixup import AVMixup
from holdfast.objectives.extra_class import ExtraClass
from holdfast.objectives.free import Free
from holdfast.objectives.half_clean import HalfClean
from holdfast.objectives.inner import diverging, moved, search
from holdfast.objectives.interpolated import Interpolated
from holdfast.objectives.mart import MART
from holdfast.objectives.mat import MAT
from holdfast.objectives.msd import MSD
from holdfast.objectives.objective import Examples, Objective
from holdfast.objectives.trades import TRADES
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.spatial import Spatial
from holdfast.threats.threat import Threat
from holdfast.threats.union import Union

UNION = Union(Linf(0.1), L2(0.6), L1(2.0))


def rows(batch: Examples, threat: Threat = LINF) -> Rows:
    return Rows(batch.x, batch.y, torch.full_like(batch.y, -1), batch.key, threat)


class Exact(Net):
    """A net without BLAS: the bits of a row do not depend on its batch."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh((x.flatten(1)[:, None] * self.first).sum(2))
        return (hidden[:, None] * self.second).sum(2)


def exact() -> nn.Module:
    return Exact(seed=3).requires_grad_(False)


# Searches that end early.


@pytest.mark.parametrize("tau", [0, 1, 2, 9])
def test_friendly_is_the_plain_loop(tau: int) -> None:
    net, batch = Net(), examples(30)
    fixed, plain, taken = held(net.weights()), [], set()
    for clean, label in zip(batch.x, batch.y.tolist()):
        x, left, steps = clean, tau, 0
        while steps < 6:
            wrong = int(logits(fixed, x).argmax()) != label
            if wrong and not left:
                break
            left, steps = left - wrong, steps + 1
            x = climb(clean, x, lambda z, label=label: entropy(chances(fixed, z), label), steps=1)
        plain.append(x)
        taken.add(steps)
    found = worst(Friendly(steps=6, step_size=SIZE, start="clean", tau=tau), net.requires_grad_(False), rows(batch))
    assert torch.allclose(found, torch.stack(plain), rtol=0, atol=1e-12)
    assert len(taken) == 1 if tau == 9 else len(taken) > 2


def test_friendly_that_never_stops_is_pgd() -> None:
    given = rows(examples(20), L2(0.5))
    assert torch.equal(worst(Friendly(steps=5, tau=5), exact(), given), worst(PGD(steps=5), exact(), given))


def test_a_search_that_is_done_is_evaluated_no_more_and_the_others_do_not_notice() -> None:
    net, batch, attack, seen = exact(), examples(40), Friendly(steps=8, tau=1), []
    alone = [worst(attack, net, rows(Examples(*(part[i : i + 1] for part in batch[:3])))) for i in range(40)]
    net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert torch.equal(worst(attack, net, rows(batch)), torch.cat(alone))
    assert seen[0] == 40 and seen == sorted(seen, reverse=True) and sum(seen) < 0.7 * 8 * 40


class Uneven(PGD):
    """Rows end after as many steps as their labels say, also after none."""

    def begin(self, model: nn.Module, rows: Rows) -> State:
        state = super().begin(model, rows)
        return replace(state, done=rows.y == 0)

    def step(self, model: nn.Module, state: State) -> State:
        assert not bool(state.done.any())
        state = super().step(model, state)
        return replace(state, done=state.count >= state.rows.y)


def test_searches_may_end_at_any_time() -> None:
    net, batch = exact(), examples(9)
    found = worst(Uneven(step_size=SIZE), net, rows(batch))
    for steps in (1, 2):
        chosen = batch.y == steps
        whole = worst(PGD(steps=steps, step_size=SIZE), net, rows(batch))
        assert torch.equal(found[chosen], whole[chosen])
    assert torch.equal(found[batch.y == 0], LINF.sample(batch.x, batch.key)[batch.y == 0])
    none = Examples(*(part[:0] for part in batch[:3]))
    assert worst(PGD(), net, rows(none)).shape == (0, 1, 5, 5)


# What the attack climbs.


@pytest.mark.parametrize("make", [Adversarial, MART, ALP, HalfClean, AVMixup, ExtraClass, Interpolated])
def test_attacks_can_climb_the_divergence(make: Callable[..., Adversarial]) -> None:
    outputs = 4 if make is ExtraClass else 3
    net = Net(outputs)
    own, kl = (make(PGD(steps=3), climbs=climbs)(net, examples(), LINF).loss for climbs in ("own", "kl"))
    assert bool(torch.isfinite(kl)) and not torch.equal(own, kl)
    assert torch.equal(own, make(PGD(steps=3))(net, examples(), LINF).loss)
    with pytest.raises(BadValue, match="APGD climbs a loss of its own"):
        make(APGD(), climbs="kl")
    with pytest.raises(UnknownName, match="unknown climbs 'lk'"):
        make(PGD(), climbs="lk")


def test_the_choice_is_between_the_two_searches() -> None:
    net, batch, attack = Net(), examples(), PGD(steps=3)
    for name, by in (("own", search), ("kl", diverging)):
        assert torch.equal(moved(attack, net, batch, LINF, name), by(attack, net, batch, LINF))


# One step of ascent for every step of training.


def test_free_builds_up_a_perturbation_of_the_full_radius_and_carries_it_on() -> None:
    objective, net, batch, plain = Free(), Net(), examples(), torch.zeros(7, 1, 5, 5, dtype=torch.float64)
    for step in range(4):
        if step == 2:
            batch = examples(seed=5)._replace(delta=batch.delta)  # the next batch goes on from it
        prepared = objective.prepare(net, batch, LINF)
        objective.terms(net, prepared).loss.backward()
        delta = objective.carried(prepared, LINF)
        for row, (clean, label) in enumerate(zip(batch.x, batch.y.tolist())):
            start = torch.minimum(torch.maximum(clean + plain[row], clean - EPS), clean + EPS).clamp(0, 1)
            value = lambda x, label=label: entropy(chances(held(net.weights()), x), label)
            plain[row] = climb(clean, start, value, steps=1, size=EPS) - clean
        assert torch.allclose(delta, plain, rtol=0, atol=1e-12) and not delta.requires_grad
        batch = batch._replace(delta=delta)
        with torch.no_grad():
            net.first.add_(0.3 * net.first.grad)  # other weights at every step


def test_a_perturbation_from_a_wider_set_is_brought_into_this_one() -> None:
    batch = examples()._replace(delta=torch.ones(7, 1, 5, 5, dtype=torch.float64))
    for threat in (LINF, L2(0.5), L1(1.0)):
        prepared = Free().prepare(Net(), batch, threat)
        assert float(threat.distance(batch.x, prepared.x.detach()).max()) <= threat.eps + 1e-9
        assert prepared.x.is_leaf and prepared.x.requires_grad


# Unions.


def points(seed: int) -> Tensor:
    return torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_union_has_the_points_of_its_parts_and_no_others() -> None:
    x0, key = points(0), keys.fold(keys.root(0), torch.arange(60))
    inside = torch.cat([part.sample(x0, key) for part in UNION.parts])
    assert float(UNION.distance(x0.repeat(3, 1, 1, 1), inside).max()) <= 1 + 1e-9
    drawn = UNION.sample(x0, key)
    own = torch.stack([(drawn == part.sample(x0, key)).flatten(1).all(1) for part in UNION.parts])
    assert bool(own.any(0).all()) and bool((own.sum(1) > 8).all())  # each part has its share
    for x in (inside, (x0 + 0.3).clamp(0, 1).repeat(3, 1, 1, 1)):
        delta = (x - x0.repeat(3, 1, 1, 1)).flatten(1)
        lengths = delta.abs().amax(1) / 0.1, delta.square().sum(1).sqrt() / 0.6, delta.abs().sum(1) / 2
        assert torch.allclose(UNION.distance(x0.repeat(3, 1, 1, 1), x), torch.stack(lengths).amin(0))


def test_the_projection_is_the_nearest_point_of_all_parts() -> None:
    x0, x = points(0), points(0) + 0.4 * (points(1) - 0.5) * (points(2) > 0.7)
    for union, radius in ((UNION, None), (UNION.resized(0.5), None), (UNION, 0.5)):
        scale = 1.0 if union is UNION and radius is None else 0.5
        each = [part.resized(scale * part.eps).project(x0, x) for part in UNION.parts]
        away = torch.stack([(one - x).flatten(1).norm(dim=1) for one in each])
        found = union.project(x0, x, radius=radius)
        assert torch.allclose((found - x).flatten(1).norm(dim=1), away.amin(0), rtol=1e-9)
        assert float(union.distance(x0, found).max()) <= scale + 1e-9 and bool(((found >= 0) & (found <= 1)).all())
        assert torch.allclose(union.project(x0, found, radius=radius), found, rtol=0, atol=1e-9)
        assert len(set(away.argmin(0).tolist())) > 1  # no part is always nearest


def test_the_steepest_direction_is_that_of_the_part_that_gains_most() -> None:
    grad = (points(3) - 0.5) * (
        points(4) > 0.5 + 0.5 * torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None, None, None]
    )
    way = UNION.steepest(grad)
    gains = torch.stack([(part.eps * part.steepest(grad) * grad).flatten(1).sum(1) for part in UNION.parts])
    assert torch.allclose((way * grad).flatten(1).sum(1), gains.amax(0))
    assert float(UNION.distance(torch.zeros_like(grad), way).max()) <= 1 + 1e-9


def test_a_union_is_a_value_that_scales() -> None:
    half, again = UNION.resized(0.5), Union(Linf(0.1), L2(0.6), L1(2.0))
    assert UNION.name == "union" and again == UNION and half != UNION
    assert hash(UNION.resized(1.0)) == hash(UNION) and repr(half).startswith("Union(eps=0.5, sets=(Linf(")
    assert [part.eps for part in half.parts] == [0.05, 0.3, 1.0]
    assert half.resized(1.0) == UNION
    x0 = points(0)
    assert torch.equal(UNION.resized(0.0).project(x0, points(1)), x0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Union(), "no sets"),
        (lambda: Union(Linf(0.0)), r"Linf\(eps=0.0\) cannot be part of a union"),
        (lambda: Union(L0(3)), "L0.* cannot be part of a union"),
        (lambda: Union(Spatial(10)), "Spatial.* cannot be part of a union"),
        (lambda: Union(UNION), "Union.* cannot be part of a union"),
        (lambda: UNION.resized(11), "eps is 1.1"),
        (lambda: Friendly(tau=-1), "tau is -1"),
        (lambda: Friendly(steps=0), "steps is 0"),
        (lambda: TRADES(Friendly()), "Friendly climbs a loss of its own"),
        (lambda: MAT(PGD(), how="best"), "how is 'best'"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        make()


@pytest.mark.parametrize("make", [Adversarial, TRADES, MART, ALP, HalfClean, AVMixup, Interpolated])
def test_objectives_of_one_set_refuse_unions(make: Callable[[Attack], Adversarial]) -> None:
    with pytest.raises(BadValue, match="PGD cannot search the threat 'union'"):
        make(PGD())(Net(), examples(), UNION)


# Training against several sets at once.


def test_one_set_is_a_union_of_one() -> None:
    net, batch = Net(), examples()
    assert torch.equal(MSD(steps=3)(net, batch, LINF).loss, MSD(steps=3)(net, batch, Union(LINF)).loss)
    plain = Adversarial(PGD(steps=3, start="clean"))(net, batch, LINF).loss
    for how in ("average", "worst"):
        assert torch.equal(MAT(PGD(steps=3, start="clean"), how=how)(net, batch, LINF).loss, plain)


def test_several_sets_are_worse_than_each_and_their_worst_than_their_average() -> None:
    net, batch, attack = Net(), examples(40), PGD(steps=5)

    def loss(objective: Objective, threat: Threat = UNION) -> float:
        return objective(net, batch, threat).loss.item()

    each = [loss(Adversarial(attack), part) for part in UNION.parts]
    worst_of_all, average = loss(MAT(attack, how="worst")), loss(MAT(attack))
    assert max(each) < 1.01 * worst_of_all and average < max(each)
    assert loss(MSD(steps=10, alpha=0.3)) > 0.95 * max(each)


def test_msd_stays_in_the_union() -> None:
    batch = examples(40)
    prepared = MSD(steps=10, alpha=0.5).prepare(Net().requires_grad_(False), batch, UNION.resized(0.7))
    distances = UNION.distance(batch.x, prepared.x)
    assert float(distances.max()) <= 0.7 + 1e-9 and float(distances.min()) > 0.3
