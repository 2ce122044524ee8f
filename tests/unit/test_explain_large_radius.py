"""Large radii around images of two blobs, and nets whose boundaries are planes: distances and switches follow by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.found import Found
from holdfast.explain.questions.large_radius import LargeRadius
from holdfast.explain.questions.large_radius_said import flips
from holdfast.explain.store import packed
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.models.load import load
from holdfast.probes.neighbours import voted
from holdfast.threats.linf import Linf

SIDE = 4
FAST = {"multiples": (1.0, 2.0, 3.0), "steps": 12, "search": 40}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("holdfast.explain.compare.REPEATS", 10)


class Plane(nn.Module):
    """Class 1 where direction . (x - 0.5) is positive."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction.double())

    def forward(self, x: Tensor) -> Tensor:
        value = (x.flatten(1) - 0.5) @ self.direction
        return torch.stack([-value, value], 1)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 2)


def blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose upper half is dark (class 0) or bright (class 1); one pixel of the lower half hints at the class."""
    draws, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = draws.uniform(0.4, 0.6, (n, 1, SIDE, SIDE))
    images[:, :, : SIDE // 2] += np.where(labels == 1, 0.2, -0.2)[:, None, None, None]
    images[:, 0, -1, -1] = np.where(labels == 1, 0.55, 0.45)
    return images, labels


def upper(scale: float = 10.0) -> Tensor:
    """Looks at what makes the class."""
    return scale * torch.cat([torch.ones(SIDE * SIDE // 2), torch.zeros(SIDE * SIDE // 2)])


def hint(scale: float = 40.0) -> Tensor:
    """Looks at the hint alone: it flips where nothing else of the image does."""
    direction = torch.zeros(SIDE * SIDE)
    direction[-1] = scale
    return direction


def net(module: nn.Module, name: str, role: str = "model") -> Net:
    return Net(name, load(module, shape=(1, SIDE, SIDE)), role)  # type: ignore[arg-type]


def case(*nets: Net, **changes) -> Case:
    nets = nets or (net(Plane(upper()), "model"), net(Plane(hint()), "hinted", "twin"))
    return replace(Case(nets, from_pair(*blobs(16, 0)), Linf(0.1), from_pair(*blobs(60, 1), name="known")), **changes)


def ask(asked: Case, **settings) -> Found:
    return LargeRadius(**{**FAST, **settings}).ask(asked, lambda *_: None)


def test_neighbours_vote_as_those_of_scikit_learn():
    draws = np.random.default_rng(0)
    known, x, labels = draws.random((400, 1, 3, 3)), draws.random((50, 1, 3, 3)), draws.integers(0, 2, 400)
    reference = KNeighborsClassifier(5).fit(known.reshape(400, -1), labels).predict(x.reshape(50, -1))
    found = voted(torch.from_numpy(x), torch.from_numpy(known), torch.from_numpy(labels), 5)
    assert found.tolist() == reference.tolist()


def test_of_as_many_votes_the_nearer_ones_count():
    known = torch.tensor([0.1, 0.9, 0.2, 0.8]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 1, 0, 1])
    assert voted(torch.tensor([0.45, 0.55]).view(2, 1, 1, 1), known, labels, 4).tolist() == [0, 1]


def test_distances_radii_and_switches_follow_from_the_plane():
    found = ask(case(), norms=("l2",))
    images, _ = blobs(16, 0)
    flat = images.reshape(16, -1) - 0.5
    for name, direction in (("model", upper()), ("hinted", hint())):
        by_hand = np.abs(flat @ direction.numpy()) / float(direction.norm())
        np.testing.assert_allclose(found.arrays[f"{name}/l2/distance"], by_hand, rtol=0.03)
    unit = np.median(found.arrays["model/l2/distance"])
    np.testing.assert_allclose(found.arrays["radii/l2"], [unit, 2 * unit, 3 * unit])
    # The way goes straight across the plane, so the class switches at the first of the 21 points beyond it.
    end = found.arrays["radii/l2"][-1]
    exact = np.abs(flat @ upper().numpy()) / float(upper().norm()) / end
    np.testing.assert_allclose(found.arrays["model/switch"], np.ceil(exact * 20) / 20)
    assert np.nanmax(found.arrays["model/switches"]) == 1
    along = found.arrays["model/along"]
    np.testing.assert_allclose(along.sum(2), 1, atol=1e-6)
    assert (along[:, 0, 0] > 0.5).all() and (along[:, -1, 1] > 0.5).all()


def test_the_judge_tells_meaning_from_a_hint():
    found = ask(case(), norms=("l2",))
    ours, theirs = (flips(found, name, "l2", -1) for name in ("model", "hinted"))
    assert ours.flipped.all() and ours.confirmed is not None and ours.confirmed.all()
    assert theirs.flipped.all() and theirs.true is not None and theirs.true.all()
    assert ours.chance is not None and ours.chance.mean() < 0.2
    rows = {(row[0], row[1]): row for row in found.tables[1].rows}
    radius = found.tables[1].rows[-1][0]
    assert rows[radius, "model"][4].value == 1 and rows[radius, "hinted"][4].value == 0
    text = " ".join(found.sentences)
    assert "those of model are confirmed more often than those of hinted" in text
    assert "On model it switches later than on hinted" in text


def test_facts_agree_with_one_another():
    found = ask(case())
    assert {(fact.net, fact.norm) for fact in found.distances} == {
        (name, norm) for name in ("model", "hinted") for norm in ("l2", "linf")
    }
    assert len(found.rights) == 2 * 2 * 2 * 3 and contradictions([found]) == ()
    assert found.arrays["radii/linf"].max() <= 0.5 + 1e-12


def test_a_net_that_judges_is_a_robust_twin_and_not_judged_itself():
    nets = case().nets
    tall = net(Plane(upper(3.0)), "tall", "twin")
    found = ask(case(*nets, tall), judge="tall", norms=("l2",))
    assert "tall" in found.words["judge"] and "tall/l2/judged" not in found.arrays
    assert [row[4] for row in found.tables[1].rows if row[1] == "tall"] == ["none"] * 3
    last = flips(found, "hinted", "l2", -1)
    assert last.confirmed is not None and not last.confirmed.any()
    with pytest.raises(BadValue, match="no twin"):
        ask(case(), judge="nobody")


def test_a_fragile_net_is_not_asked():
    found = ask(case(), judge="hinted", norms=("l2",))
    assert any("hinted was not asked to judge" in each for each in found.caveats)
    assert "known images" in found.words["judge"]


def test_nobody_judges_without_known_images_or_with_bad_ones():
    found = ask(case(known=None), norms=("l2",))
    assert any("--train" in each for each in found.caveats) and not found.words["judge"]
    assert len(found.tables[1].columns) == 4 and not any("confirm" in each for each in found.sentences)
    images, labels = blobs(60, 1)
    wrong = ask(case(known=from_pair(images, 1 - labels, name="known")), norms=("l2",))
    assert any("name 0 %" in each for each in wrong.caveats) and not wrong.words["judge"]
    assert [figure.name for figure in LargeRadius().draw(wrong)] == ["film_l2", "interpolation"]


def test_constant_nets_are_breaches():
    found = ask(case(net(Plane(upper()), "model"), net(Constant(), "flat", "twin")), norms=("l2",))
    assert found.breaches == ("flat: its logits are the same for all 16 images: it is constant and has no boundary",)
    assert found.words["nets"] == ["model"] and not any(fact.net == "flat" for fact in found.distances)
    alone = ask(case(net(Constant(), "flat")))
    assert alone.breaches and not alone.tables and LargeRadius().draw(alone) == ()


def test_all_nets_go_for_the_class_that_the_model_finds_second():
    def three(third: float) -> nn.Module:
        """Classes 0 and 1 as before, and one for a bright lower half, which is ``third`` away from being seen."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)).double()
        with torch.no_grad():
            module[1].weight.copy_(torch.stack([-upper(), upper(), upper().flip(0)]))
            module[1].bias.copy_(torch.tensor([40.0, -40.0, third]))
        return module

    nets = (net(three(-45.0), "model"), net(three(-75.0), "twin", "twin"))
    settings = {"norms": ("l2",), "multiples": (1.0, 2.0, 4.0)}
    aimed, free = ask(case(*nets), targeted=True, **settings), ask(case(*nets), **settings)
    assert (aimed.arrays["target"] == 2).all() and not aimed.rights
    reached = [(found.arrays["twin/l2/class"][:, -1] == 2).mean() for found in (aimed, free)]
    assert reached[0] > 0.9 and reached[1] == 0
    assert flips(aimed, "twin", "l2", -1).flipped.mean() == reached[0]
    assert not flips(aimed, "twin", "l2", 0).flipped.any()
    assert "second most likely" in aimed.tables[1].caption


def test_ascents_that_come_nearer_than_the_search_count():
    found = ask(case(), norms=("l2",), search=1)
    better = ask(case(), norms=("l2",))
    assert (found.arrays["model/l2/distance"] <= found.arrays["radii/l2"][0] * (1 + 1e-6)).any()
    assert (better.arrays["model/l2/distance"] <= found.arrays["model/l2/distance"] * 1.03).all()
    assert "PGD" in found.distances[0].by


def test_the_same_again_and_drawn_from_what_is_stored():
    first, again = ask(case()), ask(case())
    assert packed(first) == packed(again)
    for key, values in first.arrays.items():
        assert np.array_equal(values, again.arrays[key], equal_nan=True)
    figures = LargeRadius().draw(replace(first, tables=(), sentences=()))
    assert [figure.name for figure in figures] == ["film_l2", "film_linf", "confirmed", "interpolation"]
    for figure in figures:
        figure.chart.to_dict()


@pytest.mark.parametrize(
    "settings",
    [{"norms": ()}, {"norms": ("l2", "l2")}, {"norms": ("l3",)}, {"multiples": (2.0, 1.0)}, {"multiples": (0.0,)},
     {"steps": 0}, {"neighbours": 0}, {"loss": "mse"}],
)  # fmt: skip
def test_settings_are_checked(settings):
    with pytest.raises((BadValue, UnknownName)):
        LargeRadius(**settings)
