"""The metrics of the corruption benchmark: error, CE, mCE, relative mCE, calibration under shift.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations" (ICLR
2019), section 4.1. An error is a share of images in [0, 1]; a CE is a ratio, and is shown times 100 as the field does. Only
errors that are divided by those of a baseline make a CE: on ImageNet-C that is AlexNet. Without one the mean is a mean
corruption error (not normalised), and the two are never called by the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.foundation.errors import BadValue

Errors = Mapping[str, Sequence[float]]
"""Corruption -> the errors at severities 1 to 5."""

TEST = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions of ImageNet-C, in the paper's order."""

VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The 4 extra ones: for tuning, and in no mean."""

ALEXNET: Errors = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""AlexNet's errors on ImageNet-C, as the benchmark's author gave them (hendrycks/robustness, issue 10)."""

ALEXNET_CLEAN = 0.4348
"""AlexNet's error on the clean validation images of ImageNet (torchvision's weights)."""

BINS = 15


def corruption_error(errors: Errors, baseline: Errors) -> dict[str, float]:
    """CE of each corruption: the sum of its errors over the sum of the baseline's, over the severities of ``errors``.

    Raises:
        BadValue: the baseline lacks a corruption or its severities, or made no error there.
    """
    return {name: sum(values) / _sum(baseline, name, len(values)) for name, values in errors.items()}


def relative_corruption_error(
    errors: Errors, clean: float, baseline: Errors, baseline_clean: float
) -> dict[str, float]:
    """Relative CE: what each corruption adds to the clean error, over what it adds to the baseline's.

    Raises:
        BadValue: as above, or a corruption adds nothing to the baseline's error.
    """
    found = {}
    for name, values in errors.items():
        added = _sum(baseline, name, len(values)) - len(values) * baseline_clean
        if added <= 0:
            raise BadValue(
                f"{name} does not raise the baseline's error above its clean one",
                hint="report mCE, or take another baseline",
            )
        found[name] = (sum(values) - len(values) * clean) / added
    return found


def shares(errors: Errors, baseline: Errors | None = None) -> dict[tuple[str, int], float]:
    """(corruption, place of the severity from 1) -> its weight in the mean; mCE is linear in the errors.

    The mean over images of the weighted sum of an image's mistakes is the mCE, so that images can be resampled for its
    interval, and two models be compared image by image.
    """
    return {
        (name, place): 1 / (len(errors) * (_sum(baseline, name, len(values)) if baseline else len(values)))
        for name, values in errors.items()
        for place in range(1, len(values) + 1)
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins of the confidence (Guo et al., ICML 2017, equation 3).

    Args:
        confidence: the probability of the predicted class, (n,) in [0, 1].
        right: whether the prediction was right, (n,) bool.
    """
    if not len(confidence):
        return float("nan")
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    n = np.bincount(places, minlength=BINS)
    gap = np.bincount(places, confidence, BINS) - np.bincount(places, right.astype(float), BINS)
    return float(np.abs(gap[n > 0]).sum() / len(confidence))


def _sum(baseline: Errors, name: str, severities: int) -> float:
    known = baseline.get(name, ())
    if len(known) != severities or sum(known) <= 0:
        raise BadValue(
            f"the baseline has {'no errors' if sum(known, 0.0) <= 0 else f'{len(known)} severities'} for {name}, not "
            f"{severities}",
            hint="leave it out, or give a baseline that was measured on the same corruptions and severities",
        )
    return float(sum(known))
