"""Transfer between nets whose boundaries are planes: distances, and who fools whom, follow by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.data.arrays import Arrays, from_pair
from holdfast.data.source import subset
from holdfast.experiments.outcome import Estimate
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.found import Found
from holdfast.explain.questions.matrix import Matrix, unpacked
from holdfast.explain.questions.transfer import Transfer
from holdfast.foundation.errors import BadValue
from holdfast.models.load import load
from holdfast.nets.small_cnn import SmallCNN
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

N, SIDE = 12, 4


class Plane(nn.Module):
    """Class 1 where direction . (x - 0.5) is positive; ``shown`` is what gradients see in the place of the direction."""

    def __init__(self, direction: Tensor, shown: Tensor | None = None) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction.clone())
        self.shown = nn.Parameter((direction if shown is None else shown).clone())

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) - 0.5
        seen = x @ self.shown
        value = seen + (x @ self.direction - seen).detach()
        return torch.stack([torch.zeros_like(value), value], 1)


class Constant(nn.Module):
    """Says the same of every image: ``value``."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([value, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 2)


def directions() -> tuple[Tensor, Tensor]:
    """Two of unit length that are orthogonal."""
    draws = np.random.default_rng(0).normal(size=(SIDE * SIDE, 2))
    first, second = torch.from_numpy(np.linalg.qr(draws)[0]).T
    return first.contiguous(), second.contiguous()


ONE, OTHER = directions()
AWAY = np.linspace(0.02, 0.15, N) * np.where(np.arange(N) % 2, 1, -1)
"""How far the images are from the first plane; from the second all are by 0.2."""


def images() -> np.ndarray:
    flat = 0.5 + AWAY[:, None] * ONE.numpy() + 0.2 * np.sign(AWAY)[:, None] * OTHER.numpy()
    return flat.reshape(N, 1, SIDE, SIDE)


def case(modules: Sequence[nn.Module], threat: Threat | None = None, roles: Sequence[str] = (), known=None) -> Case:
    nets = tuple(
        Net(f"net {place}", load(each, shape=(1, SIDE, SIDE)), role)  # type: ignore[arg-type]
        for place, (each, role) in enumerate(zip(modules, roles or ["model", "twin", "twin", "untrained"]))
    )
    return Case(nets, from_pair(images(), (AWAY > 0).astype(np.int64)), threat or L2(0.1), known)


def asked(given: Case, **settings) -> tuple[Found, dict[str, Matrix]]:
    found = Transfer(**{"steps": 10, **settings}).ask(given, lambda *_: None)
    return found, dict(zip(found.words, unpacked(found)))


@pytest.fixture(scope="module")
def pair() -> tuple[Found, dict[str, Matrix]]:
    """What two orthogonal planes are answered with."""
    return asked(case([Plane(ONE), Plane(OTHER)]))


def test_distortion_is_the_analytic_distance(pair: tuple[Found, dict[str, Matrix]]) -> None:
    found, _ = pair
    for fact, expected in zip(found.distances, (np.abs(AWAY), np.full(N, 0.2))):
        assert (fact.norm, fact.kind) == ("l2", "attack") and None not in fact.values
        values = np.array(fact.values, dtype=np.float64)
        assert np.allclose(values, expected, rtol=0.01) and (values >= expected * (1 - 1e-9)).all()
    assert np.allclose(np.array(found.of_images["net 0"]["distortion, RMS"], float), np.abs(AWAY) / SIDE, rtol=0.01)
    mean = found.tables[0].rows[0][3]
    assert (
        isinstance(mean, Estimate)
        and mean.value == pytest.approx(np.abs(AWAY).mean() / SIDE, rel=0.01)
        and mean.low < mean.value < mean.high
    )
    assert "they are nearer" in found.sentences[0]


def test_equal_nets_transfer_wholly_and_orthogonal_ones_not_at_all() -> None:
    found, seen = asked(case([Plane(ONE), Plane(2 * ONE), Plane(OTHER)]))
    for key in ("nearest", "matched", "within"):
        first = seen[key].wrong[:3, :3]
        assert (first[0, 1] == first[1, 1]).all() and (first[1, 0] == first[0, 0]).all(), key
        assert not first[0, 2].any() and not first[2, 0].any(), key
    assert seen["nearest"].wrong[:2, :2].all() and seen["matched"].share(0, 1).value == 1
    assert seen["nearest"].rows[3:] == tuple(f"noise as far as net {place}" for place in range(3))
    text = " ".join(found.sentences)
    assert "net 0 fool net 1 on 100 %" in text and "net 0 fool net 2 on 0 %" in text
    assert "more than noise" in text and "no difference is seen from noise" in text and not contradictions([found])


@pytest.mark.parametrize("threat", [L2(0.1), Linf(0.03)])
def test_what_stands_is_what_must(threat: Threat) -> None:
    """A plane is crossed within the radius by whoever knows its normal, and only then."""
    found, _ = asked(case([Plane(ONE), Plane(OTHER)], threat), matched=0.03)
    reach = threat.eps * float(ONE.abs().sum()) if threat.name == "linf" else threat.eps
    by = {(fact.net, fact.how, fact.norm, fact.by): np.array(fact.right) for fact in found.rights}
    own = next(
        held for (net, how, norm, by), held in by.items() if (net, how) == ("net 0", "white box") and "APGD" in by
    )
    assert (own == (np.abs(AWAY) > reach)).all() and 0 < own.sum() < N
    assert (by["net 0", "white box", "l2", "L-BFGS"] == (np.abs(AWAY) > 0.03 * SIDE)).all()
    assert by["net 0", "transfer", "l2", "L-BFGS, stretched, on net 1"].all()
    assert not contradictions([found])


def test_stretched_points_and_noise_have_the_wanted_distortion_where_the_box_has_room(
    pair: tuple[Found, dict[str, Matrix]],
) -> None:
    _, seen = pair
    assert np.allclose(seen["matched"].rms, 0.1, rtol=1e-6)
    assert np.allclose(
        seen["nearest"].rms[2], seen["nearest"].rms[0], rtol=1e-6
    )  # noise as far as the first net's points
    _, seen = asked(case([Plane(ONE), Plane(OTHER)]), matched=0.9)
    assert (seen["matched"].rms < 0.9).all() and (seen["matched"].rms > 0.4).all()


def test_tiny_noise_breaks_nothing() -> None:
    _, seen = asked(case([Plane(ONE), Plane(OTHER)], L2(1e-5)), matched=1e-6)
    assert not seen["matched"].wrong.any() and not seen["within"].wrong.any()
    assert np.allclose(seen["matched"].rms, 1e-6, rtol=1e-3)


def test_transfer_that_beats_masked_gradients_is_a_contradiction() -> None:
    found, seen = asked(case([Plane(ONE, shown=OTHER), Plane(ONE)]))
    assert not seen["within"].wrong[0, 0].any() and seen["within"].wrong[1, 0].any()
    broken = int(seen["within"].wrong[1, 0].sum())
    assert f"own searches leave {N} of {N} right: of these, points of net 1 break {broken}." in found.sentences[-2]
    said = contradictions([found])
    assert any("on net 1 (transfer, eps 0.1) breaks" in each and each.startswith("net 0") for each in said)
    assert not any(each.startswith("net 1") for each in said)


def test_the_control_is_marked_and_what_it_gets_wrong_does_not_count() -> None:
    found, seen = asked(case([Plane(ONE), Plane(-ONE), Plane(OTHER)], roles=["model", "untrained", "twin"]))
    assert seen["matched"].nets == ("net 0", "net 1 (control)", "net 2")
    assert not any("net 1" in row for row in seen["nearest"].rows[3:])
    assert not seen["nearest"].counted[:, 1].any() and seen["nearest"].share(0, 1).n == 0
    assert found.tables[1].rows[0][3] == "none" and found.distances[1].values == (0.0,) * N
    assert any("only the 0 images" in each for each in found.caveats)
    assert all("net 1" not in each for each in found.sentences)


def test_nets_that_cannot_be_asked_are_left_out() -> None:
    given = case([Plane(ONE), Constant(1.0), Constant(0.0)])
    broken = replace(given.nets[2], model=replace(given.nets[2].model, module=Constant(math.nan)))
    found, seen = asked(replace(given, nets=(*given.nets[:2], broken)))
    assert seen["nearest"].nets == ("net 0",) and [each[:5] for each in found.breaches] == ["net 1", "net 2"]
    assert all(figure.chart.to_dict() for figure in Transfer().draw(found))
    found, seen = asked(case([Constant(1.0)]))
    assert not seen and not found.tables and found.breaches and Transfer().draw(found) == ()


def test_the_answer_is_determined_and_does_not_depend_on_the_batch(pair: tuple[Found, dict[str, Matrix]]) -> None:
    given, (found, seen) = case([Plane(ONE), Plane(OTHER)]), pair
    again = asked(given)[0]
    assert repr(asdict(replace(found, arrays={}))) == repr(asdict(replace(again, arrays={})))
    assert all((np.asarray(again.arrays[name]) == values).all() for name, values in found.arrays.items())
    few = subset(given.source, 5, 0)
    _, part = asked(replace(given, source=few))
    for key in ("nearest", "matched"):
        assert (seen[key].wrong[:, :, few.ids] == part[key].wrong).all()
        assert np.allclose(seen[key].rms[:, few.ids], part[key].rms, rtol=1e-6)


def test_the_matrices_are_drawn_on_one_scale_from_what_is_stored(pair: tuple[Found, dict[str, Matrix]]) -> None:
    found, _ = pair
    (figure,) = Transfer().draw(found)
    drawn = figure.chart.to_dict()
    assert len(drawn["vconcat"]) == 3 and repr(drawn).count("'domain': [0, 1]") == 3
    assert sum(len(np.asarray(each).tobytes()) for each in found.arrays.values()) < 2e6


def test_nets_of_disjoint_halves_of_the_known_images() -> None:
    def drawn(n: int, seed: int) -> Arrays:
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), np.uint8)
        return from_pair(pixels, np.arange(n) % 10, class_names=tuple("0123456789"))

    model = load(SmallCNN(width=2, hidden=8, size=8), shape=(1, 8, 8))
    given = Case((Net("model", model),), drawn(3, 0), Linf(0.1), drawn(20, 1))
    found, seen = asked(given, subsets=1, steps=1)
    assert seen["nearest"].nets == ("model", "half 1", "half 2")
    assert Transfer(subsets=1).effort(given, 3).gradients > 3 * Transfer().effort(given, 3).gradients
    assert not any("known" in each for each in found.caveats)
    found, seen = asked(replace(given, known=None), subsets=1, steps=1)
    assert seen["nearest"].nets == ("model",) and any("no known images" in each for each in found.caveats)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"matched": 0.0}, {"subsets": -1}, {"subsets": True}])
def test_what_makes_no_sense_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(BadValue):
        Transfer(**setting)  # type: ignore[arg-type]
