"""Lines, slices and planes of linear nets, whose boundaries are known in closed form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.controls import untrained
from holdfast.explain.questions.decision_boundary import COARSE, ROUNDS, DecisionBoundary
from holdfast.explain.questions.plane_colours import FINE, coloured, doublings, inside_words, regions, shaded
from holdfast.explain.questions.slices import at_random
from holdfast.explain.questions.three_images import ThreeImages
from holdfast.explain.store import packed
from holdfast.foundation.errors import BadValue
from holdfast.models.load import load
from holdfast.probes.plane import across, first_change, look, moved, random_directions, section, sized, spanned
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

SHAPE, SIZE = (1, 4, 4), 16
WEIGHT = torch.linspace(-1.5, 2.5, SIZE, dtype=torch.float64)
SET = Linf(0.1)
TINY = 4.0 / COARSE / 2**ROUNDS


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is tested here."""
    monkeypatch.setattr("holdfast.explain.compare.REPEATS", 20)


class Linear(nn.Module):
    """Class 1 where w . (x - 1/2) is positive; logits -s, s and one that never wins."""

    def __init__(self, weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.head = nn.Linear(SIZE, 3).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([-weight, weight, 0 * weight]))
            self.head.bias.copy_(torch.tensor([0.0, 0.0, -100.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) - 0.5)


def frozen_linear() -> Linear:
    net = Linear()
    net.requires_grad_(False)
    return net


class Constant(nn.Module):
    """Says the same of everything; NaN of nothing, or of everything."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (0 * x.flatten(1).sum(1, keepdim=True) + self.value) * torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)


def images(n: int = 6) -> np.ndarray:
    return 0.5 + 0.03 * np.random.default_rng(1).standard_normal((n, *SHAPE)).clip(-2, 2)


def case(threat: Threat = SET, *modules: nn.Module, wrong: int = 0, n: int = 6) -> Case:
    """Images near the middle of the box, with the labels that the first net gives them, but the first ``wrong``."""
    x = images(n)
    labels = ((x.reshape(n, -1) - 0.5) @ WEIGHT.numpy() > 0).astype(np.int64)
    labels[:wrong] = 1 - labels[:wrong]
    known = load(Linear(), shape=SHAPE)  # what is broken would be refused
    named = [
        Net(f"net {place}", replace(known, module=each.requires_grad_(False)), "twin" if place else "model")
        for place, each in enumerate(modules or (Linear(),))
    ]
    return Case(tuple(named), from_pair(x, labels, name="x", class_names=["low", "high", "never"]), threat)


def height(x: Tensor) -> Tensor:
    return (x.flatten(1) - 0.5) @ WEIGHT


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4), L1(1.0)])
def test_first_change_of_a_linear_net_is_where_its_plane_is(threat: Threat) -> None:
    net, x = frozen_linear(), torch.from_numpy(images(40))
    way = sized(threat, random_directions(threat, torch.arange(40), x))
    y = net(x).argmax(1)
    exact = -height(x) / (way.flatten(1) @ WEIGHT)
    assert threat.distance(x, moved(x, way, torch.ones(40), clip=False)) == pytest.approx(threat.eps)
    t = first_change(net, x, y, way, far=4, clip=False)
    few = first_change(net, x[7:9], y[7:9], way[7:9], far=4, clip=False)
    reached = (exact > 0) & (exact < 4)
    assert 5 < reached.sum() < 40
    assert bool(t[~reached].isinf().all())
    assert bool((t[reached] - exact[reached]).ge(0).all()) and bool((t[reached] - exact[reached]).le(TINY).all())
    assert torch.equal(few, t[7:9])  # no image depends on its neighbours
    assert bool((net(moved(x, way, t.clamp_max(4), clip=False)).argmax(1) != y)[reached].all())
    assert not bool(first_change(net, x, 1 - y, way, far=4).any())  # wrong already


def test_values_stop_at_the_ends_of_their_range() -> None:
    net, x = frozen_linear(), torch.full((1, *SHAPE), 0.45, dtype=torch.float64)
    down, y = torch.full_like(x, -1.0), torch.ones(1, dtype=torch.int64)
    dark, towards = x * 0, torch.where(WEIGHT.view(x.shape) > 0, -1.0, 0.0).double()
    assert bool(first_change(net, dark + 0.6, y, towards, far=9).isfinite())
    assert bool(first_change(net, dark, net(dark).argmax(1), towards, far=9).isinf())  # no value can fall
    assert float(moved(x, down, torch.tensor([9.0])).min()) == 0
    view, straight = (look(net, x[0], down[0], -down[0], [0.0, 0.9], [0.0], clip=clip) for clip in (True, False))
    assert view.outside[0].tolist() == straight.outside[0].tolist() == pytest.approx([0, 0.25])  # half of the way
    assert float(view.logits[0, 1, 1]) == pytest.approx(float(height(0 * x)))
    assert float(straight.logits[0, 1, 1]) == pytest.approx(float(height(x - 0.9)))
    with pytest.raises(BadValue):
        first_change(net, x, y, down, far=0)


def test_v_is_orthogonal_to_u_and_as_long() -> None:
    keys = torch.arange(5)
    u = torch.from_numpy(images(5)) - 0.4
    signs = random_directions(Linf(0.1), keys, u)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    v = across(signs, u)
    assert (v * u).flatten(1).sum(1).abs().max() < 1e-12
    assert v.flatten(1).norm(dim=1) == pytest.approx(u.flatten(1).norm(dim=1))
    assert torch.equal(random_directions(Linf(0.1), keys[3:], u[3:]), signs[3:])


def test_the_section_of_the_set_is_exact() -> None:
    u, v = torch.ones(SHAPE).double() * 0.1, torch.ones(SHAPE).double() * 0.1
    v[..., :2] *= -1
    assert section(Linf(0.1), u, v).abs().sum(1) == pytest.approx(torch.ones(181))  # a square on its corner
    length = float(u.norm())
    assert section(L2(length), u, v).norm(dim=1) == pytest.approx(torch.ones(181))


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)])
def test_distances_of_a_linear_net(threat: Threat) -> None:
    asked = case(threat, Linear(), Linear(2 * WEIGHT), wrong=1, n=12)
    probe = DecisionBoundary(random=3, steps=20, grid=5, shown=1)
    found = probe.ask(asked, lambda *_: None)
    batch = asked.batch(asked.nets[0])
    dual = float(WEIGHT.abs().sum() if threat.name == "linf" else WEIGHT.norm())
    nearest = height(batch.x).abs() / dual / threat.eps
    seen = found.arrays["net 0/gradient"]
    assert np.isnan(seen[0]) and not np.isnan(seen[1:]).any()  # what is wrong does not count
    assert seen[1:] == pytest.approx(nearest[1:].numpy(), abs=1.1 * TINY)
    assert found.arrays["net 0/adversarial"][1:] == pytest.approx(seen[1:], abs=1e-3 if threat.name == "linf" else 0.05)
    ways = [sized(threat, across(at_random(asked, batch, place), u_of(probe, asked))) for place in range(3)]
    exact = torch.stack([-height(batch.x) / (way.flatten(1) @ WEIGHT) for way in ways])
    exact[(exact < 0) | (exact > 4)] = torch.inf
    middle = exact.median(0).values.numpy()[1:]
    typical = found.arrays["net 0/typical"][1:]
    assert np.array_equal(np.isinf(typical), np.isinf(middle)) and (np.isfinite(middle).any() or threat.name == "l2")
    assert typical[np.isfinite(middle)] == pytest.approx(middle[np.isfinite(middle)], abs=1.1 * TINY)
    facts = {(each.net, each.kind, each.by): each.values for each in found.distances}
    assert not contradictions([found])
    assert facts["net 0", "attack", "a line along the gradient"][2] == pytest.approx(seen[2] * threat.eps)
    table = found.tables[0].rows[0]
    ratio: Any = table[8]
    cut = np.minimum(typical, 4)
    assert ratio.value == pytest.approx(np.median(found.arrays["net 0/adversarial"][1:] / cut))
    pairs: Any = found.tables[1].rows[0]  # twice the weights, the same boundary
    assert abs(pairs[1].value) < 1e-9 and "not seen to differ from" in found.sentences[-1]


def u_of(probe: DecisionBoundary, asked: Case) -> Tensor:
    from holdfast.explain.questions.slices import adversarial

    return adversarial(asked, asked.nets[0], asked.batch(asked.nets[0]), steps=probe.steps)


def test_areas_of_slices_are_those_of_half_planes() -> None:
    asked, probe = case(n=3), DecisionBoundary(random=1, steps=5, grid=21)
    found = probe.ask(asked, lambda *_: None)
    batch, u = asked.batch(asked.nets[0]), u_of(probe, asked)
    v, at = across(at_random(asked, batch, 0), u), np.linspace(-2, 2, 21)[::2]
    shares = []
    for x, one, other in zip(batch.x, u.flatten(1) @ WEIGHT, v.flatten(1) @ WEIGHT):
        heights = float(height(x[None])) + at[None] * float(one) + at[:, None] * float(other)
        shares.append((np.sign(heights) == np.sign(float(height(x[None])))).mean())
    area: Any = found.tables[0].rows[0][9]
    assert area.value == pytest.approx(np.median(shares)) and 0.5 < area.value < 1
    drawn = found.arrays["net 0/classes"]
    assert drawn.shape == (3, 21, 21) and set(np.unique(drawn)) == {0, 1}


def test_a_boundary_that_is_never_reached_is_infinite() -> None:
    found = DecisionBoundary(random=1, steps=3, far=0.001, grid=5).ask(case(), lambda *_: None)
    row: Any = found.tables[0].rows[0]
    assert row[2].value == math.inf and row[3].value == 1 and row[8].n == 0
    assert "not within 0.001 eps" in found.sentences[0]
    assert all(value is None for fact in found.distances for value in fact.values)


def test_settings() -> None:
    asked = case(Linf(0.1), Linear(), Linear(WEIGHT - 0.3 * (-1) ** torch.arange(SIZE)))
    own, shared = (
        DecisionBoundary(random=1, steps=5, direction=each, grid=5, outside="leave") for each in ("own", "shared")
    )
    first, together, again = (each.ask(asked, lambda *_: None) for each in (own, shared, own))
    assert all(np.array_equal(first.arrays[key], again.arrays[key], equal_nan=True) for key in first.arrays)
    assert np.array_equal(first.arrays["net 0/adversarial"], together.arrays["net 0/adversarial"])
    assert not np.array_equal(first.arrays["net 1/adversarial"], together.arrays["net 1/adversarial"], equal_nan=True)
    assert not first.distances  # what is outside of [0, 1] is no attack
    wrong: list[dict[str, Any]] = [
        {"direction": "both"},
        {"outside": "wrap"},
        {"grid": 20},
        {"far": 0.0},
        {"random": 0},
    ]
    for settings in wrong:
        with pytest.raises(BadValue):
            DecisionBoundary(**settings)
    assert own.effort(asked, 6).gradients == 2 * 6 * 12


@pytest.mark.parametrize("probe", [DecisionBoundary(random=1, steps=3, grid=5), ThreeImages(grid=7)])
def test_nets_of_which_nothing_can_be_said(probe: DecisionBoundary | ThreeImages) -> None:
    for broken, why in ((Constant(), "the same for all 6"), (Constant(math.nan), "not finite on 6 of 6")):
        found = probe.ask(case(Linf(0.1), Linear(), broken), lambda *_: None)
        assert len(found.breaches) == 1 and found.breaches[0].startswith("net 1: ") and why in found.breaches[0]
        assert found.words["nets"] == (["net 0"] if found.tables else [])
        alone = probe.ask(case(Linf(0.1), broken), lambda *_: None)
        assert alone.breaches and not alone.tables and not alone.sentences and probe.draw(alone) == ()


def test_the_untrained_net_counts_from_what_it_says_and_figures_are_charts() -> None:
    asked = case(wrong=2)
    control = untrained(asked.nets[0].model)
    assert control is not None
    asked = replace(asked, nets=(*asked.nets, control))
    probe = DecisionBoundary(random=2, steps=5, grid=5, shown=1)
    found = probe.ask(asked, lambda *_: None)
    assert [row[1] for row in found.tables[0].rows] == [4, 6]
    assert {fact.net for fact in found.distances} == {"net 0"}
    json.dumps(packed(found)["words"])
    figures = probe.draw(replace(found, words=json.loads(json.dumps(found.words))))
    assert [each.name for each in figures] == ["slices", "losses", "distances"]
    assert all(each.chart.to_dict() for each in figures)
    assert sum(each.nbytes for each in found.arrays.values()) < 2e6


def test_the_plane_through_three_images_holds_them() -> None:
    corners = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    u, v, places = spanned(corners)
    back = corners[0] + places[:, 0].view(-1, 1, 1, 1) * u + places[:, 1].view(-1, 1, 1, 1) * v
    assert torch.allclose(back, corners, atol=1e-12)
    assert float((u * v).sum()) == pytest.approx(0, abs=1e-12) and float(v.norm()) == pytest.approx(1)
    with pytest.raises(BadValue):
        spanned(torch.stack([corners[0], corners[1], 2 * corners[1] - corners[0]]))


class Corners(nn.Module):
    """The class of the nearest of three images."""

    def __init__(self, x: Tensor, order: list[int]) -> None:
        super().__init__()
        self.x = nn.Parameter(x[order].flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), self.x).square()


def test_regions_of_a_plane_are_those_of_the_nearest_corner() -> None:
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2)).double()
    nets = tuple(
        Net(name, load(Corners(x, order), shape=SHAPE), role)
        for name, order, role in (("model", [0, 1, 2], "model"), ("turned", [0, 2, 1], "twin"))
    )
    asked = Case(nets, from_pair(x.numpy(), np.arange(3)), Linf(0.1))  # pyrefly: ignore[bad-argument-type]
    probe = ThreeImages(grid=16, shown=1)
    found = probe.ask(asked, lambda *_: None)
    places = np.array([corner[:2] for corner in found.words["corners"][0]])
    labels = [int(corner[2]) for corner in found.words["corners"][0]]
    a, b = found.arrays["a"][0], found.arrays["b"][0]
    away = (a[None, :, None] - places[:, 0]) ** 2 + (b[:, None, None] - places[:, 1]) ** 2
    assert np.array_equal(found.arrays["model/classes"][0], np.array(labels)[away.argmin(2)])
    model, turned = (row[1:] for row in found.tables[0].rows)
    assert (model[0].value, model[1].value, model[2].value) == (0, 3, 1)  # type: ignore[union-attr]
    same = float((found.arrays["model/classes"] == found.arrays["turned/classes"]).mean())
    assert turned[2].value == pytest.approx(same) and 0 < same < 1  # type: ignore[union-attr]
    assert all(each.chart.to_dict() for each in probe.draw(replace(found, words=json.loads(json.dumps(found.words)))))
    alike = replace(asked, source=from_pair(x.numpy(), np.zeros(3, np.int64), class_names=["0", "1", "2"]))
    equal = replace(asked, source=from_pair(x[[0, 0, 1]].numpy(), np.arange(3)))
    assert not any(probe.ask(each, lambda *_: None).tables for each in (alike, equal))


def test_colours() -> None:
    classes = np.array([[0, 0], [1, 2]])
    colours = coloured([classes], [str(each) for each in range(30)])
    assert set(colours) == {0, 1, 2} and len(set(colours.values())) == 3
    pixels = regions(classes, colours, np.zeros((2, 2)))
    assert pixels.shape == (2 * FINE, 2 * FINE, 3)
    assert "#{:02x}{:02x}{:02x}".format(*pixels[2, 2]) == colours[1]  # the last row of the plane stands on top
    hatched = regions(classes, colours, np.ones((2, 2)))
    assert (hatched != pixels).any()
    assert inside_words(np.kron(classes, np.ones((5, 5), int)), "abc", np.arange(10.0), np.arange(10.0))[1][2] == "b"
    dark, light = shaded(np.array([[0.0], [8.0]]), 8.0)[::-1, 0]
    assert dark.sum() < light.sum()
    assert doublings(0.3, 4.1) == [0.5, 1, 2, 4] and doublings(0, 0) == []
