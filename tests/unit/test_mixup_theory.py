"""The theory on a model that is linear, where every figure follows by hand; and the accuracies of what draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.stats import wilson
from holdfast.imaging.pool import Pool
from holdfast.probes.clustered import clustered
from holdfast.probes.estimands import estimands, evaluations, gain
from holdfast.probes.mixup_theory import Curve, mixup_theory


class Linear(nn.Module):
    """The means of three stripes, in shares of their sum, are the probabilities: linear where that sum is 1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].mean(1)[:, : self.classes].clamp_min(1e-30).log()


def shown(*shares: tuple[float, ...]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)[:, None, None, :].expand(-1, 1, 2, -1).clone()


def means(curve: Curve) -> list[float]:
    return [each.value for each in curve]


GRID = (0.0, 0.3, 0.8, 1.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_every_figure_by_hand_on_the_linear_model(classes: int) -> None:
    corners = [tuple(float(i == k) for i in range(classes)) for k in range(classes) for _ in range(2)]
    pool = Pool.of(shown(*corners), [k for k in range(classes) for _ in range(2)], source="corners")
    rest = (0.0,) * (classes - 2)
    x0, x = shown((1.0, 0.0, *rest), (0.9, 0.1, *rest)), shown((0.4, 0.6, *rest), (0.1, 0.9, *rest))
    y = torch.tensor([0, 0])
    # The third pair is wrong when clean, the fourth right when attacked: they do not count.
    x0, x = torch.cat([x0, x[:1], x0[:1]]), torch.cat([x, x[:1], x0[:1]])
    found = mixup_theory(Linear(classes), x0, x, torch.cat([y, y]), pool, lam=GRID, num_draws=2 * (classes - 1))
    assert (found.n, found.given, found.lam) == (2, 4, GRID)
    assert np.allclose((found.clean.value, found.y.value, found.yhat.value), (0.95, 0.25, 0.75))
    # G_y(delta) = 0.25 - 0.95 and G_yhat(delta) = 0.75 - 0.05; the model is linear: G(lam delta) = lam G(delta).
    gap = [(1 - lam) * 0.7 for lam in GRID]
    others = classes - 1
    share = np.array(GRID)
    for mixing, clean, y_, yhat in (
        (found.pl, share * 0.95 + 1 - share, share * 0.25, share * 0.75 + 1 - share),
        (found.ol, share * 0.95, share * 0.25 + (1 - share) / others, share * 0.75),
    ):
        assert np.allclose(means(mixing.clean), clean) and np.allclose(means(mixing.y), y_)
        assert np.allclose(means(mixing.yhat), yhat)
        assert np.allclose(means(mixing.delta_clean), clean - 0.95)
        assert np.allclose(means(mixing.delta_y), y_ - 0.25)
        assert np.allclose(means(mixing.delta_yhat), yhat - 0.75)
        assert np.allclose(means(mixing.detection_gap), clean - 0.95 - yhat + 0.75)
        for gaps in (mixing.published, mixing.paired):
            assert np.allclose(means(gaps.y), gap) and np.allclose(means(gaps.yhat), gap)
        assert all(each.n == 2 and each.low <= each.value <= each.high for each in mixing.margin)
    # PL adds to yhat and takes from y: no repair. OL takes from yhat; it adds to y where y is below its part of a mixture.
    assert found.pl.improves == (False,) * 4 and found.pl.threshold_yhat == tuple(1 - lam for lam in GRID)
    assert found.ol.improves == (True, True, True, False) and found.ol.threshold_yhat == (0.0,) * 4
    assert np.allclose(found.pl.threshold_y, [1 - lam for lam in GRID])
    assert np.allclose(found.ol.threshold_y, [(1 - lam) * (classes - 2) / (classes - 1) for lam in GRID])
    assert means(found.ol.improved)[:3] == [1.0] * 3 and means(found.pl.improved) == [0.0] * 4
    assert np.allclose(means(found.pl.margin), [lam * 0.25 - lam * 0.75 - (1 - lam) for lam in GRID])
    assert means(found.pl.recovered) == [0.0] * 4
    if classes == 2:
        assert np.allclose(means(found.ol.margin), [1 - lam - lam * 0.5 for lam in GRID])
        assert means(found.ol.recovered) == [1.0, 1.0, 0.5, 0.0]


def test_the_two_estimators_part_where_the_model_is_not_linear() -> None:
    class Curved(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    pool = Pool.of(shown((1.0, 0.0), (0.0, 1.0)), [0, 1], source="corners")
    x0, x, y = shown((0.9, 0.1)), shown((0.3, 0.7)), torch.tensor([0])
    found = mixup_theory(Curved(2), x0, x, y, pool, lam=(0.5,), num_draws=1).pl

    def f(share: float) -> float:
        return share**3 / (share**3 + (1 - share) ** 3)

    # The adversarial mixture is at 0.15, the clean one with its own partner at 0.95, with the same partner at 0.45.
    full = f(0.3) - f(0.9)
    assert found.paired.y[0].value == pytest.approx(f(0.15) - f(0.45) - full)
    assert found.published.y[0].value == pytest.approx(0.5 - (f(0.95) - f(0.15)) - full)
    assert found.clean[0].value == pytest.approx(f(0.95)) and found.delta_y[0].value == pytest.approx(f(0.15) - f(0.3))


def test_what_the_theory_cannot_say() -> None:
    pool = Pool.of(shown((1.0, 0.0), (0.0, 1.0)), [0, 1], source="corners")
    x0, x, y = shown((0.9, 0.1)), shown((0.3, 0.7)), torch.tensor([0])
    for broken, error in (
        ({"x": x0}, BadData),
        ({"lam": ()}, BadValue),
        ({"lam": (1.5,)}, BadValue),
        ({"num_draws": 0}, BadValue),
        ({"pool": Pool.of(shown((1.0, 0.0)), [0], source="one")}, BadData),
    ):
        given = {"x": x, "pool": pool, "lam": (0.5,)} | broken
        with pytest.raises(error):
            mixup_theory(Linear(2), x0, given.pop("x"), y, given.pop("pool"), **given)


def test_accuracies_of_what_draws() -> None:
    # Always right; right in 2 of 4; a tie of three classes; always wrong.
    predicted = np.array([[0, 0, 0, 0], [1, 0, 1, 2], [2, 1, 0, 2], [3, 3, 3, 3]])
    found = estimands(predicted, np.array([0, 1, 1, 0]), tries=2)
    assert found.mean.value == pytest.approx((1 + 0.5 + 0.25 + 0) / 4) and found.mean.n == 4
    assert found.worst.value == pytest.approx((1 + 1 / 6) / 4)  # of the 6 pairs of evaluations one is right twice
    assert found.majority == wilson(2, 4) and found.fixed == wilson(2, 4)
    assert found.unstable.value == pytest.approx((0 + 5 / 6 + 5 / 6 + 0) / 4)
    assert found.mean.low >= 0 and found.mean.high <= 1
    assert estimands(predicted, np.array([0, 1, 2, 0]), tries=1).majority.value == 0.75
    assert estimands(predicted, np.array([0, 1, 1, 0]), tries=4).worst.value == 0.25
    one = estimands(predicted[:, :1], np.array([0, 1, 1, 0]), tries=1)
    assert one.mean == one.fixed == wilson(2, 4) and one.unstable.value == 0
    for tries in (0, 5):
        with pytest.raises(BadValue):
            estimands(predicted, np.array([0, 1, 1, 0]), tries=tries)


def test_the_worst_of_some_tries_is_estimated_without_bias() -> None:
    rng = np.random.default_rng(0)
    rate = rng.uniform(size=4000)
    right = rng.uniform(size=(4000, 8)) < rate[:, None]
    found = estimands(np.where(right, 0, 1), np.zeros(4000, int), tries=3)
    assert found.worst.low < np.mean(rate**3) < found.worst.high and found.worst.high - found.worst.low < 0.03


def test_intervals_are_clustered_over_images() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        rate = rng.choice([0.0, 1.0], size=40)
        defended = rng.uniform(size=(40, 50)) < np.where(rate > 0, 0.9, 0.1)[:, None]
        found = clustered(defended.mean(1), confidence=0.9)
        held += found.low <= 0.5 <= found.high
    assert 0.85 < held / 300 < 0.95
    assert clustered(np.array([0.5])).low == -np.inf and clustered(np.array([]), least=0.0, most=1.0).high == 1
    better, none = gain(np.ones((50, 3)), np.arange(50) % 2 == 0), gain(np.ones((50, 3)), np.arange(50) > 0)
    assert better.shown and better.difference.value == 0.5 and not none.shown
    assert none.verdict == "no gain over the undefended model"


class Coin:
    """Its class is the parity of the sample and of the evaluation."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        assert ids is not None
        return torch.nn.functional.one_hot((ids + self.number) % 2, 2).double()

    def at(self, *evaluation: int) -> Coin:
        return Coin(*evaluation)


def test_evaluations_are_numbered_and_go_by_the_sample() -> None:
    found = evaluations(Coin(), torch.zeros(5, 1, 1, 1), torch.tensor([0, 1, 2, 3, 7]), 3, batch=2)
    assert found.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1]]
