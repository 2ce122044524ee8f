"""The toys in a plane: their points, the grid and the enclosure against closed forms, the attacks, the command."""

from __future__ import annotations

import csv
import dataclasses
import json
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.experiments.perceptron import Perceptron
from holdfast.experiments.theory import configured
from holdfast.experiments.toys import draw, squares
from holdfast.experiments.toys.judged import STANDARD, judged
from holdfast.experiments.toys.points import Toy, boxes, circles, moons
from holdfast.experiments.toys.run import against_the_grid
from holdfast.experiments.toys.settings import Toys
from holdfast.foundation.errors import BadValue, UnknownName

QUICK = Toys(points=8, rows=40, judged=30, hidden=8, updates=30, attack_steps=2, grid=11, search_steps=5, restarts=2)


def random_net(seed: int, depth: int = 2, hidden: int = 12) -> Perceptron:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Perceptron(2, hidden, 4.0, depth).double().eval()
        for layer in net.layers:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data *= 2  # as bent as a trained one
    return net


def linear_net(weight: tuple[float, float], bias: float) -> Perceptron:
    """Logits (0, w . x + b) in the unit square: units +-(w . x + b), of which the second is taken from the first."""
    net = Perceptron(2, 2, 1.0).double().eval()
    w = torch.tensor(weight, dtype=torch.float64)
    first, last = net.layers[1], net.layers[3]
    first.weight.data = torch.stack([w, -w]) / 2  # the net sees 2 x - 1
    first.bias.data = torch.tensor([1.0, -1.0]) * (bias + float(w.sum()) / 2)
    first.bias.data = first.bias.data.double()
    last.weight.data = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    last.bias.data.zero_()
    return net


def points(n: int, seed: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.uniform(eps, 1 - eps, (n, 2))), torch.from_numpy(draws.integers(0, 2, n))


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_apart(seed: int) -> None:
    asked = Toys(seed=seed)
    toy = boxes(asked)
    nearest = min(np.abs(a - b).max() for a, b in combinations(toy.x, 2))
    assert nearest >= 2.2 * asked.boxes_eps and toy.eps == asked.boxes_eps
    assert len(toy.x) == 20 and toy.y.sum() == 10 and toy.ceiling == 20
    assert toy.x.min() >= toy.eps and toy.x.max() <= 1 - toy.eps


def test_moons_and_circles_are_mapped_by_one_similarity() -> None:
    from sklearn.datasets import make_moons

    asked = Toys(seed=3)
    raw, labels = make_moons(500, noise=0.1, random_state=3)
    toy = moons(asked)
    mapped = np.vstack([toy.x, toy.judged_x])
    assert np.array_equal(np.r_[toy.y, toy.judged_y], labels) and len(toy.x) == 200
    scale = (mapped[1:] - mapped[0]) / (raw[1:] - raw[0])
    assert scale == pytest.approx(np.full_like(scale, scale[0, 0])) and toy.eps == pytest.approx(0.2 * scale[0, 0])
    for each in (toy, circles(asked)):
        every = np.vstack([each.x, each.judged_x])
        ends = np.c_[every.min(0) - each.eps, 1 - every.max(0) - each.eps]
        assert ends.min() == pytest.approx(0, abs=1e-12)  # every square inside, the widest from rim to rim
    assert moons(asked).fingerprint() == toy.fingerprint() != moons(Toys(seed=4)).fingerprint()


def test_the_ceiling_is_the_largest_set_of_squares_that_do_not_meet() -> None:
    draws = np.random.default_rng(0)
    for _ in range(5):
        x, y, eps = draws.uniform(0.2, 0.8, (9, 2)), np.arange(9) % 2, 0.1
        toy = Toy("any", "", eps, x, y, x, y)
        meet = [(a, b) for a, b in combinations(range(9), 2) if y[a] != y[b] and np.abs(x[a] - x[b]).max() <= 2 * eps]
        kept = [[bit for bit in range(9) if number >> bit & 1] for number in range(2**9)]
        free = [len(each) for each in kept if not any(a in each and b in each for a, b in meet)]
        assert meet and toy.ceiling == max(free)


def test_the_grid_of_a_linear_net_is_its_closed_form() -> None:
    """A linear margin is smallest at a corner, |w|_1 eps below the centre's: the grid holds the rim, so it is exact."""
    eps, w, b = 0.07, (3.0, -2.0), -0.4
    x, y = points(60, 0, eps)
    net = linear_net(w, b)
    truth = squares.searched(net, x, y, eps, 5)
    sign = 2.0 * y - 1
    centre = sign * (x @ torch.tensor(w, dtype=torch.float64) + b)
    assert torch.allclose(truth.margin, centre - 5.0 * eps)
    broken = centre < 5.0 * eps
    assert torch.equal(truth.broken, broken) and torch.equal(truth.proven, ~broken) and 10 < int(broken.sum()) < 50
    corner = x - eps * sign[:, None] * torch.tensor(w, dtype=torch.float64).sign()
    assert torch.allclose(truth.where, corner)


@pytest.mark.parametrize("seed", range(1, 4))
def test_robust_accuracy_falls_with_eps_and_with_nested_grids(seed: int) -> None:
    x, y = points(80, seed, 0.16)
    net = random_net(seed)
    broken = [squares.searched(net, x, y, eps, side).broken for eps, side in ((0.04, 5), (0.08, 9), (0.16, 17))]
    assert all(bool((more | ~less).all()) for less, more in pairwise(broken))  # each grid holds the one before
    assert int(broken[0].sum()) < int(broken[2].sum()) - 5
    coarse, fine = (squares.searched(net, x, y, 0.16, side) for side in (5, 9))
    assert bool((fine.broken | ~coarse.broken).all()) and bool((fine.margin <= coarse.margin).all())


@pytest.mark.parametrize(("seed", "depth"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_no_point_lies_below_the_enclosure(seed: int, depth: int) -> None:
    net, half = random_net(seed, depth), 0.05
    x, y = points(50, seed, half)
    draws = torch.from_numpy(np.random.default_rng(seed).uniform(-half, half, (400, 50, 2)))
    with torch.no_grad():
        least = squares.lowest(net, x, half, y)
        logits = net((x + draws).reshape(-1, 1, 1, 2)).view(400, 50, 2)
        margins = torch.where(y == 0, 1, -1) * (logits[..., 0] - logits[..., 1])
        assert bool((margins.amin(0) >= least - 1e-12).all())
        tiny = squares.lowest(net, x, 1e-9, y)
    assert torch.allclose(
        tiny, torch.where(y == 0, 1, -1) * (net(x[:, None, None]) @ torch.tensor([1.0, -1.0]).double())
    )
    assert bool((tiny > least).all())


@pytest.mark.parametrize("seed", [0, 1, 3, 5])  # 0: one class everywhere, where all units of a layer are off
def test_every_square_is_decided(seed: int) -> None:
    """By a fine grid or by the enclosure, which knows what a coarse grid misses and does not cut for ever."""
    x, y = points(80, seed, 0.16)
    coarse, fine = (squares.searched(random_net(seed), x, y, 0.16, side) for side in (3, 41))
    assert torch.equal(fine.proven, ~fine.broken) and torch.equal(coarse.proven, fine.proven)
    assert 0 < int(fine.proven.sum()) < 80
    assert seed != 3 or bool((fine.broken & ~coarse.broken).any())


def test_attacks_stay_within_what_is_known() -> None:
    """They find no more than there is, and what they say is so: nothing contradicts."""
    found = judged(QUICK, moons(QUICK), STANDARD)
    assert found.breaches() == []
    for each in found.attacks.values():
        assert not bool((each.fooled & found.truth.proven).any())
    assert bool((found.truth.broken | found.right).all())  # a grid holds the point itself


def test_contradictions_are_said() -> None:
    found = judged(QUICK, boxes(QUICK), STANDARD)
    name, attacked = next(iter(found.attacks.items()))

    def said(**changed: object) -> str:
        return " ".join(dataclasses.replace(found, **changed).breaches())  # pyrefly: ignore[bad-argument-type]

    assert "outside their squares" in said(attacks={name: dataclasses.replace(attacked, x=attacked.x + 0.2)})
    assert "asked again" in said(attacks={name: dataclasses.replace(attacked, fooled=~attacked.fooled)})
    assert bool(attacked.fooled.any())
    all_of_them = torch.ones_like(found.right)
    assert "proven safe are broken" in said(truth=dataclasses.replace(found.truth, proven=all_of_them))
    crowded = dataclasses.replace(found.toy, eps=0.3)
    assert "the most there can be" in said(toy=crowded, truth=dataclasses.replace(found.truth, proven=all_of_them))


def test_what_an_attack_misses_is_counted() -> None:
    found = judged(QUICK, boxes(QUICK), STANDARD)
    blind = {name: dataclasses.replace(each, fooled=each.fooled & False) for name, each in found.attacks.items()}
    part = against_the_grid(QUICK, [dataclasses.replace(found, attacks=blind)])
    broken = int(found.truth.broken.sum())
    assert broken and not part.outcome.verdict.reproduced
    assert [row[4:7] for row in part.outcome.rows] == [(broken, broken, 0)] * 3
    sharp = {name: dataclasses.replace(each, fooled=each.fooled | True) for name, each in found.attacks.items()}
    part = against_the_grid(QUICK, [dataclasses.replace(found, attacks=sharp)])
    assert part.outcome.verdict.reproduced and {row[5:7] for row in part.outcome.rows} == {(0, 8 - broken)}


def test_the_drawn_regions_are_the_nets() -> None:
    net = random_net(7)
    for label, rows in enumerate(draw._regions(net)):
        assert rows
        for each in rows[::37]:
            for across in (each["x"] + 0.5 / draw.CELLS, each["x2"] - 0.5 / draw.CELLS):
                at = torch.tensor([[[[across, (each["y"] + each["y2"]) / 2]]]], dtype=torch.float64)
                assert int(net(at).argmax()) == label
    assert sum((each["x2"] - each["x"]) / draw.CELLS for rows in draw._regions(net) for each in rows) == pytest.approx(
        1
    )


def test_settings_are_checked() -> None:
    assert configured(Toys, "toys", ["boxes_eps=8/255", "seed=3"]).boxes_eps == 8 / 255
    for pairs, what in (
        (["grid=40"], "must be odd"),
        (["gap=2"], "gap is 2"),
        (["points=1"], "points is 1"),
        (["moons_eps=0"], "moons_eps is 0"),
        (["boxes_eps=0.5"], "fit into the unit square"),
        (["noise=-1"], "noise is -1"),
        (["restarts=1"], "restarts is 1"),
    ):
        with pytest.raises(BadValue, match=what):
            configured(Toys, "toys", pairs)
    with pytest.raises(UnknownName, match="setting of toys"):
        configured(Toys, "toys", ["eps=1"])
    with pytest.raises(BadValue, match="points is 500; after"):
        boxes(Toys(points=500))


def test_the_command(cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(draw, "CELLS", 20)
    pairs = [
        word
        for each in dataclasses.fields(Toys)
        if getattr(QUICK, each.name) != each.default
        for word in ("--set", f"{each.name}={getattr(QUICK, each.name)}")
    ]
    ran = cli("theory", "toys", "--out", tmp_path / "toys", "-q", *pairs)
    assert ran.code == 0 and "CONTRADICTION" not in ran.out
    parts = ("boxes", "moons", "circles", "attacks")
    for part in parts:
        assert f"\n{part}. " in f"\n{ran.out}"
        assert all((tmp_path / "toys" / f"{part}.{end}").stat().st_size > 0 for end in ("csv", "svg", "png"))
    info = json.loads((tmp_path / "toys" / "theory.json").read_text())
    assert info["name"] == "toys" and list(info["parts"]) == list(parts) and info["configuration"]["points"] == 8
    assert list(info["data"]) == ["boxes", "moons", "circles"]
    text = (tmp_path / "toys" / "theory.md").read_text()
    assert text.startswith("# toys") and all(said["seen"] in text for said in info["parts"].values())
    for part in parts[:3]:
        with (tmp_path / "toys" / f"{part}.csv").open() as file:
            for row in csv.DictReader(file):
                ends = [float(row[name]) for name in ("proven robust", "robust by grid", "clean")]
                assert ends == sorted(ends)


def test_the_command_refuses_data_for_toys(cli, tmp_path: Path) -> None:
    for option in ("--data", "--test"):
        ran = cli("theory", "toys", "--out", tmp_path / "toys", option, "digits")
        assert ran.code == 2 and f"{option} is digits; toys draws its own points" in ran.err
    assert not (tmp_path / "toys").exists()
    ran = cli("theory", "boxes", "--out", tmp_path)
    assert ran.code == 2 and "odds, toys" in ran.err
