"""ROC, AUC and its interval against their definitions; accuracies with rejection by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import clopper_pearson
from holdfast.probes.detection import auc, detection, roc, with_rejection


def samples(count: int, seed: int = 0, shift: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Scores of images and of their attacked versions, which go together; some tie."""
    draw = np.random.default_rng(seed)
    own = draw.normal(size=count)
    return np.round(own + draw.normal(size=count), 1), np.round(own + shift + draw.normal(size=count), 1)


def components(clean: np.ndarray, attacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    beats = (attacked[:, None] > clean) + 0.5 * (attacked[:, None] == clean)
    return beats.mean(1), beats.mean(0)


def logit_interval(value: float, variance: float) -> tuple[float, float]:
    half = 1.959964 * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(math.log(value / (1 - value)) + sign * half))) for sign in (-1, 1))
    return low, high


def test_the_curve_and_its_area_are_those_of_scikit_learn() -> None:
    clean, attacked = samples(40)[0], samples(30, 1)[1]
    truth, score = np.repeat([0, 1], [40, 30]), np.concatenate([clean, attacked])
    false, true, levels = roc_curve(truth, score, drop_intermediate=False)
    found = roc(clean, attacked)
    assert np.allclose(found.false_alarms, false) and np.allclose(found.detected, true)
    assert np.array_equal(found.thresholds, levels)
    area = auc(clean, attacked, clean_ids=np.arange(40), attacked_ids=np.arange(30) + 40).value
    assert area == pytest.approx(roc_auc_score(truth, score)) == pytest.approx(np.trapezoid(true, false))
    assert roc([1.0, 2.0], [2.0, 3.0]).detected.tolist() == [0, 0.5, 1, 1]


def test_the_interval_of_independent_samples_is_delongs() -> None:
    clean, attacked = samples(25)[0], samples(18, 1)[1]
    over, under = components(clean, attacked)
    found = auc(clean, attacked, clean_ids=np.arange(25), attacked_ids=np.arange(18) + 25)
    wanted = logit_interval(found.value, over.var(ddof=1) / 18 + under.var(ddof=1) / 25)
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-6) and found.n == 43


def test_pairs_and_repeated_evaluations_are_clusters() -> None:
    clean, attacked = samples(30)
    over, under = components(clean, attacked)
    found = auc(clean, attacked)
    wanted = logit_interval(found.value, (over + under).var(ddof=1) / 30)
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-6) and found.n == 30
    again = auc(np.stack([clean] * 3, 1), np.stack([attacked] * 2, 1))
    assert (again.value, again.low, again.high, again.n) == pytest.approx((found.value, found.low, found.high, 30))
    order = np.random.default_rng(0).permutation(30)
    mixed = auc(clean, attacked[order], clean_ids=np.arange(30), attacked_ids=order)
    assert (mixed.low, mixed.high) == pytest.approx((found.low, found.high))
    part = auc(clean, attacked[:12], clean_ids=np.arange(30), attacked_ids=np.arange(12))
    assert part.low < part.value < part.high and part.high - part.low > found.high - found.low


def test_the_interval_covers() -> None:
    true = 0.5 * (1 + math.erf(0.7 / 2 / math.sqrt(2)))  # of two normals of variance 2
    held = [found.low <= true <= found.high for found in (auc(*samples(50, seed)) for seed in range(300))]
    assert 0.92 <= np.mean(held) <= 0.98


def test_perfect_separation_is_not_certain() -> None:
    clean, attacked = np.arange(20.0), np.arange(20.0) + 50
    found = auc(clean, attacked)
    assert found.value == found.high == 1 and found.low == clopper_pearson(10, 10).low
    assert auc(attacked, clean).high == pytest.approx(1 - found.low)
    assert auc([0.0], [1.0]).low == 0 and auc([0.0], [1.0]).high == 1
    tied = auc(np.zeros(9), np.zeros(9))
    assert (tied.value, tied.low, tied.high) == (0.5, 0, 1)


def test_figures_at_a_threshold() -> None:
    clean, attacked = np.array([0.0, 1.0, 2.0, 3.0]), np.array([[3.0, 1.0], [3.0, 3.0], [9.0, 9.0], [0.0, 0.0]])
    found = detection(clean, attacked, 3.0)
    assert found.false_alarms.value == 0.25 and found.detected.value == pytest.approx(5 / 8)
    assert found.false_alarms.n == found.detected.n == 4 and found.detected.low < 0.3 < 0.9 < found.detected.high
    assert found.verdict == "no better than chance"
    assert detection(np.arange(40), np.arange(40) + 30, 35).verdict == "attacked images score higher"
    assert detection(np.arange(40) + 30, np.arange(40), 35).verdict.startswith("inverted")


def test_accuracies_with_rejection() -> None:
    served = np.array([[1], [1], [0], [0]], dtype=bool)
    safe = np.array([[1, 1], [0, 1], [1, 1], [0, 0]], dtype=bool)
    found = with_rejection(served, safe)
    assert (found.clean.value, found.attacked.value, found.robust.value) == (0.5, 0.625, 0.375)
    everything = with_rejection(np.zeros((9, 1), bool), np.ones((9, 1), bool))
    assert everything.attacked.value == 1 and everything.robust.value == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: auc([1.0, 2.0], [1.0]),
        lambda: auc([], []),
        lambda: auc([1.0, 2.0], [1.0, 2.0], confidence=1.0),
        lambda: auc([1.0, math.nan], [1.0, 2.0]),
        lambda: auc([1.0, 2.0], [1.0, 2.0], clean_ids=np.arange(3)),
        lambda: roc([], [1.0]),
        lambda: with_rejection(np.ones((2, 1), bool), np.ones((3, 1), bool)),
    ],
)
def test_what_makes_no_sense_is_refused(make) -> None:
    with pytest.raises(BadValue):
        make()
