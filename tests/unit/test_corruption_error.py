"""The metrics of the corruption benchmark against published numbers and sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.audit.corrupted.error import (
    ALEXNET,
    ALEXNET_CLEAN,
    TEST,
    calibration_error,
    corruption_error,
    relative_corruption_error,
    shares,
)
from holdfast.audit.corrupted.overlap import FAMILIES, overlap
from holdfast.foundation.errors import BadValue

RESNET50 = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)
"""CE of ResNet-50 as published, in whole per cent; its mCE was published as 76.7."""

ALEXNET_MEANS = (
    *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324),
    *(0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
)
"""AlexNet's mean errors, published apart from its errors at each severity."""


def weighted(errors, baseline=None) -> float:
    """What a run averages over images: the mCE; without a baseline the mean error."""
    return sum(share * errors[name][place - 1] for (name, place), share in shares(errors, baseline).items())


def test_alexnet_is_the_unit() -> None:
    assert weighted(ALEXNET, ALEXNET) == pytest.approx(1)
    assert set(corruption_error(ALEXNET, ALEXNET).values()) == {1.0}
    relative = relative_corruption_error(ALEXNET, ALEXNET_CLEAN, ALEXNET, ALEXNET_CLEAN)
    assert list(relative.values()) == pytest.approx([1] * 15)


def test_the_table_has_the_published_means() -> None:
    assert tuple(ALEXNET) == TEST
    assert [np.mean(ALEXNET[name]) for name in TEST] == pytest.approx(ALEXNET_MEANS, abs=1e-9)


def test_resnet50_has_its_published_mce() -> None:
    errors = {name: [ce / 100 * mean] * 5 for name, ce, mean in zip(TEST, RESNET50, ALEXNET_MEANS)}
    assert [100 * ce for ce in corruption_error(errors, ALEXNET).values()] == pytest.approx(RESNET50)
    assert 100 * weighted(errors, ALEXNET) == pytest.approx(76.7, abs=0.25)  # its parts were rounded


def test_sums_by_hand() -> None:
    errors, baseline = {"fog": (0.1, 0.5), "snow": (0.2, 0.2)}, {"fog": (0.5, 0.7), "snow": (0.5, 0.3)}
    assert corruption_error(errors, baseline) == pytest.approx({"fog": 0.5, "snow": 0.5})  # a ratio of sums
    assert weighted(errors) == pytest.approx(0.25)
    relative = relative_corruption_error(errors, 0.1, baseline, 0.2)
    assert relative == pytest.approx({"fog": 0.5, "snow": 0.5})
    assert shares(errors) == pytest.approx({(name, place): 0.25 for name in errors for place in (1, 2)})
    assert weighted(errors, baseline) == pytest.approx(np.mean(list(corruption_error(errors, baseline).values())))


def test_a_baseline_must_have_been_measured_there() -> None:
    with pytest.raises(BadValue, match="no errors for fog"):
        corruption_error({"fog": (0.1,)}, {})
    with pytest.raises(BadValue, match="has 2 severities for fog, not 1"):
        corruption_error({"fog": (0.1,)}, {"fog": (0.1, 0.2)})
    with pytest.raises(BadValue, match="does not raise the baseline's error"):
        relative_corruption_error({"fog": (0.5,)}, 0.1, {"fog": (0.2,)}, 0.3)


def test_calibration_error_by_hand() -> None:
    sure = np.array([0.95, 0.95, 0.95, 0.95])
    assert calibration_error(sure, np.array([True, True, True, False])) == pytest.approx(0.2)
    mixed = np.array([0.95, 0.95, 0.35, 0.35])
    assert calibration_error(mixed, np.array([True, False, True, False])) == pytest.approx((0.45 * 2 + 0.15 * 2) / 4)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def test_a_declaration_is_held_against_the_corruptions() -> None:
    names = [*TEST, "speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert overlap({}, names).declared is None and overlap({"operations": "no JSON"}, names).declared is None
    none = overlap({"operations": '["translate", "flip", "mixup"]'}, names)
    assert none.declared == ("translate", "flip", "mixup") and not none.touched and not none.unknown
    noisy = overlap({"operations": '["gaussian_noise", "colour", "sorcery"]'}, names)
    assert set(noisy.touched) == {
        *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
        *("brightness", "contrast", "saturate"),
    }
    assert noisy.touched["shot_noise"] == ("gaussian_noise",) and noisy.unknown == ("sorcery",)
    assert all(set(touched) <= set(names) for touched in FAMILIES.values())
