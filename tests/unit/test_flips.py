"""Flip probabilities and rank distances of perturbation sequences."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.audit.perturbed.flips import ALEXNET_FLIPS, EXTRA, TEST, flips, rates, top5_distances
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadValue


def test_the_tables_name_what_there_is() -> None:
    standing = {name: registry.load("perturbation", name).standing for name in registry.names("perturbation")}
    assert standing == {**dict.fromkeys(TEST, "test"), **dict.fromkeys(EXTRA, "extra")}
    assert set(ALEXNET_FLIPS) == set(standing)
    assert np.mean([ALEXNET_FLIPS[name] for name in TEST]) == pytest.approx(0.14046, abs=1e-5)


def test_a_flip_is_a_change_from_the_frame_before_or_for_noise_from_the_first() -> None:
    predictions = np.array([[1, 1, 2, 2, 1], [3, 3, 3, 3, 3], [0, 1, 0, 1, 0]])
    assert flips(predictions, noise=False) == pytest.approx([2 / 4, 0, 1])
    assert flips(predictions, noise=True) == pytest.approx([2 / 4, 0, 2 / 4])
    assert flips(predictions, noise=False, difficulty=2) == pytest.approx([1, 0, 0])
    assert flips(predictions, noise=True, difficulty=2) == pytest.approx(flips(predictions, noise=True))


def test_the_distance_of_rankings() -> None:
    first = np.arange(12)

    def distance(second: list[int]) -> float:
        return float(top5_distances(np.array([[first, second]]), noise=False)[0])

    assert distance(list(range(12))) == 0
    assert distance([1, 0, *range(2, 12)]) == 2  # neighbours change places
    assert distance([*range(4), 5, 4, *range(6, 12)]) == 1  # the fifth leaves
    assert distance([11, *range(11)]) == 5  # all move down by one
    assert distance(list(range(11, -1, -1))) == 15  # all five leave
    assert distance([*range(5), *range(11, 4, -1)]) == 0  # what happens below them does not count


def test_alexnet_against_itself_is_100_per_cent() -> None:
    found = rates({name: np.array([flip]) for name, flip in ALEXNET_FLIPS.items()}, baseline=ALEXNET_FLIPS, seed=0)
    assert found.mean.value == pytest.approx(100.0)
    assert {name: rate.value for name, rate in found.each.items()} == pytest.approx(dict.fromkeys(ALEXNET_FLIPS, 100.0))


def test_the_mean_is_over_the_ten_and_its_interval_over_sequences() -> None:
    generator = np.random.default_rng(0)
    measured = {name: generator.random(200) for name in (*TEST, "shear")}
    plain = rates(measured, baseline=None, seed=0)
    assert plain.mean.value == pytest.approx(np.mean([measured[name].mean() for name in TEST]))
    assert plain.mean.n == 200 and plain.mean.low < plain.mean.value < plain.mean.high
    assert plain.each["shear"].value == pytest.approx(measured["shear"].mean())
    width = plain.mean.high - plain.mean.low  # of the mean of 2000 uniform draws
    assert width == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 2000), rel=0.25)
    against = rates(measured, baseline=ALEXNET_FLIPS, seed=0)
    wanted = np.mean([100 * measured[name].mean() / ALEXNET_FLIPS[name] for name in TEST])
    assert against.mean.value == pytest.approx(wanted)


def test_what_cannot_be_measured_is_refused() -> None:
    whole = {name: np.zeros(3) for name in TEST}
    with pytest.raises(BadValue, match="snow not measured"):
        rates({name: each for name, each in whole.items() if name != "snow"}, baseline=None, seed=0)
    with pytest.raises(BadData, match=r"\[3, 4\] sequences"):
        rates({**whole, "tilt": np.zeros(4)}, baseline=None, seed=0)
    with pytest.raises(BadValue, match="no rate for tilt"):
        rates(whole, baseline={**ALEXNET_FLIPS, "tilt": 0.0}, seed=0)
    with pytest.raises(BadData, match="float64"):
        flips(np.zeros((2, 3)), noise=False)
    with pytest.raises(BadData, match="2 frames have none that are 2 apart"):
        flips(np.zeros((4, 2), dtype=int), noise=False, difficulty=2)
    with pytest.raises(BadValue, match="difficulty is 4"):
        flips(np.zeros((4, 9), dtype=int), noise=False, difficulty=4)
    with pytest.raises(BadData, match="5 or more"):
        top5_distances(np.zeros((4, 9, 3), dtype=int), noise=False)
