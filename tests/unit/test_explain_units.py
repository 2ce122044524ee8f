"""Units against random directions: the statistics on layers whose answer is known, and the question on tiny nets."""

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.questions.units import Units
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.models.load import load
from holdfast.probes import activations, directions
from holdfast.threats.linf import Linf

SHAPE = (1, 6, 6)
FEW = Units(k=8, directions=60, rotations=9, steps=3)


def source(n, seed, classes=4):
    """Images of noise around a bright quarter that tells the class, sorted by class as folders are."""
    draws = np.random.default_rng(seed)
    labels = np.sort(np.arange(n) % classes)
    images = 0.3 * draws.random((n, *SHAPE), dtype=np.float32)
    for image, label in zip(images, labels):
        image[0, 3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 0.5
    return from_pair(images, labels)


def net(seed=0, hidden=12):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, hidden), nn.ReLU(), nn.Linear(hidden, 4)).eval()


def case(*modules, known=True):
    nets = [
        Net(f"net {place}", load(each, shape=SHAPE), "twin" if place else "model") for place, each in enumerate(modules)
    ]
    return Case(tuple(nets), source(40, 1), Linf(0.1), source(200, 2) if known else None)


def test_purity_by_chance_is_that_of_the_spec_and_of_draws():
    assert directions.by_chance(np.repeat(np.arange(10), 100_000), 16, 10).purity == pytest.approx(0.236, abs=5e-4)
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    chance, draws = directions.by_chance(labels, 8, 3), np.random.default_rng(0)
    drawn = np.stack([draws.choice(labels, 8, replace=False) for _ in range(5000)])
    assert chance.purity == pytest.approx(directions.purity(drawn).mean(), abs=8e-3)
    assert chance.entropy == pytest.approx(directions.entropy(drawn, 3).mean(), abs=8e-3)
    assert directions.by_chance(np.zeros(20, int), 5, 1) == (pytest.approx(1), 0)


def test_purity_and_entropy_of_known_rows():
    rows = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])
    assert directions.purity(rows).tolist() == [1, 0.5, 0.25]
    assert directions.entropy(rows, 10) == pytest.approx([0, 0.5, 1])


def test_top_images_are_those_of_a_full_sort():
    draws = np.random.default_rng(0)
    vectors, values = draws.standard_normal((5, 3)), draws.standard_normal((50, 3))
    expected = np.argsort(-(vectors @ values.T), axis=1)[:, :7]
    assert (directions.top(vectors, values, 7) == expected).all()
    with pytest.raises(BadValue, match="k is 51"):
        directions.top(vectors, values, 51)


def test_p_of_the_rotation_test_is_uniform_on_an_isotropic_layer():
    """Labels that depend on the activations through a basis drawn by Haar's measure: no rotation changes the law."""
    found = []
    for seed in range(120):
        draws = np.random.default_rng(seed)
        values = draws.standard_normal((150, 6))
        labels = (values @ directions.haar(6, draws)[:, :3]).argmax(1)
        found.append(directions.rotation_test(values, labels, 8, rotations=19, seed=seed).p)
    counts = np.histogram(found, bins=[0, 0.25, 0.5, 0.75, 1.001])[0]
    assert ((counts - 30) ** 2 / 30).sum() < 11.3  # chi-square with 3 degrees of freedom, 1 %
    assert np.mean(np.array(found) <= 0.05 + 1e-9) < 0.13


def test_the_rotation_test_sees_a_special_basis():
    values = np.random.default_rng(0).standard_normal((300, 6))
    found = directions.rotation_test(values, values.argmax(1), 8, rotations=39, seed=0)
    assert found.z > 3 and found.p == pytest.approx(1 / 40)


def test_effect_covers_ties_and_certainty():
    assert directions.effect(np.ones(5), np.ones(7)).value == 0.5
    sure = directions.effect(np.arange(5) + 10.0, np.arange(7.0))
    assert (sure.value, sure.low, sure.high) == pytest.approx((1, 1, 1))


def test_whitened_directions_and_principal_axes():
    draws = np.random.default_rng(0)
    values = draws.standard_normal((4000, 3)) * [10, 1, 0.1]
    found = directions.whitened(values, 2000, draws) * [10, 1, 0.1]  # each score is then of the variance of its row
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs((found**2).mean(0) - 1 / 3).max() < 0.03
    axes = directions.principal(values)
    assert axes.shape == (2, 3) and np.abs(axes[:, 0]) == pytest.approx(1, abs=0.01)


def test_haar_rotations_are_orthogonal():
    found = directions.haar(5, np.random.default_rng(0))
    assert found @ found.T == pytest.approx(np.eye(5), abs=1e-12)


def test_a_layer_of_class_detectors_is_pure():
    detector = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Identity(), nn.Linear(4, 4))
    with torch.no_grad():
        detector[1].weight.zero_()
        for label in range(4):
            quarter = detector[1].weight.view(4, 6, 6)[label]
            quarter[3 * (label // 2) :, 3 * (label % 2) :][:3, :3] = 1
    found = FEW.ask(case(detector), lambda *_: None)
    assert found.tables[0].rows[0][2].value == 1
    assert found.tables[2].rows[0][1].value == 0
    assert found.words["layers"] == {"net 0": "what enters 3"}


def test_the_answer_has_a_row_for_each_net_and_draws():
    asked = case(net(0), net(1))
    found, again = (FEW.ask(asked, lambda *_: None) for _ in range(2))
    assert [row[0] for table in found.tables for row in table.rows] == ["net 0", "net 1"] * 3
    assert found.sentences == again.sentences and not contradictions([found])
    assert all(np.array_equal(found.arrays[key], again.arrays[key]) for key in found.arrays)
    assert sum(each.nbytes for each in found.arrays.values()) < 2e6
    drawn = {figure.name: figure.chart.to_dict() for figure in FEW.draw(found)}
    assert list(drawn) == ["purity", "top_images_1", "top_images_2", "excited"] and all(drawn.values())


def test_without_known_images_it_says_so():
    found = FEW.ask(case(net(), known=False), lambda *_: None)
    assert any("no known images" in each for each in found.caveats)
    assert "40 images under test" in found.tables[0].caption


def test_a_wrong_layer_lists_the_names():
    with pytest.raises(UnknownName, match="1, 2, 3"):
        Units(layer="fc").ask(case(net()), lambda *_: None)
    assert Units(layer="1", directions=9, rotations=9, steps=0).ask(case(net()), lambda *_: None).words["layers"] == {
        "net 0": "1"
    }


def test_degenerate_nets_are_told_and_the_others_go_on():
    dead = net()
    with torch.no_grad():
        dead[1].bias.fill_(-1e3)
    found = FEW.ask(case(dead, net(1)), lambda *_: None)
    assert any("no unit tells any two images apart" in each for each in found.breaches)
    assert [type(row[2]).__name__ for row in found.tables[0].rows] == ["str", "Estimate"]
    plain = FEW.ask(case(lambda x: x.flatten(1)[:, :4] * 2), lambda *_: None)
    assert plain.sentences == ("net 0: a plain function has no layers.",)
    assert FEW.draw(plain) == ()


def test_units_dead_on_all_images_are_dropped():
    some = net()
    with torch.no_grad():
        some[1].bias[:5] = -1e3
    alive = FEW.ask(case(some), lambda *_: None).tables[0].rows[0][1]
    assert int(str(alive).split()[0]) <= 7 and str(alive).endswith("of 12")


def test_ascent_excites_and_the_module_is_left_without_hooks():
    module, start = net(), torch.full(SHAPE, 0.5)
    place = activations.place(module, start[None])
    vectors = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    found = activations.exciting(module, place, vectors, start, steps=20)
    with activations.tapped(module, place) as read:
        module(torch.cat([start[None], found]))
        values = read()
    assert ((values[1:] * vectors).sum(1) > (values[:1] * vectors).sum(1)).all()
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
