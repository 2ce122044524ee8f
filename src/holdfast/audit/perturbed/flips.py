"""The metrics of the perturbation benchmark: how often a classifier changes its mind along sequences of frames.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
ICLR 2019, section 4.2, and the released evaluation. A measure is taken of every sequence: `flips`, the share of its pairs
of frames with two predictions (FP), or `top5_distances`, how far the five likeliest classes move in rank (T5D). `rates`
divides the mean of each perturbation by a baseline's and averages: of flips over AlexNet's that is mFR. The released code
holds no T5D of AlexNet, and CIFAR-10-P has no baseline: then means are left as they are, and are a mean flip probability
and a mean T5D, not mFR and mT5D.

The released script for CIFAR-10-P averages spatter in place of snow. Here, as in the paper, snow counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.stats import Interval, bootstrap

TEST = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)
"""The 10 perturbations of ImageNet-P, in the paper's order."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "shear")
"""The 4 extra ones: for tuning, and in no mean."""

ALEXNET_FLIPS: Mapping[str, float] = {
    "gaussian_noise": 0.23653,
    "shot_noise": 0.30062,
    "motion_blur": 0.09297,
    "zoom_blur": 0.05942,
    "snow": 0.11928,
    "brightness": 0.04889,
    "translate": 0.11007,
    "rotate": 0.13104,
    "tilt": 0.07050,
    "scale": 0.23531,
    "speckle_noise": 0.18649,
    "gaussian_blur": 0.02775,
    "spatter": 0.05053,
    "shear": 0.10658,
}
"""AlexNet's flip probabilities on ImageNet-P at difficulty 1 (from the evaluation of assembled-cnn)."""

_RANKS = 5
FURTHEST = _RANKS * (_RANKS + 1) / 2
"""The largest T5D, of two frames that share none of their five likeliest classes."""


@dataclass(frozen=True)
class Rates:
    """``each``: perturbation -> its rate; ``mean``: over the 10 that count. Rates of a baseline are per cent of it."""

    each: dict[str, Interval]
    mean: Interval


def flips(predictions: np.ndarray, *, noise: bool, difficulty: int = 1) -> np.ndarray:
    """(n,) the share of pairs of frames whose predictions differ, for each sequence.

    Args:
        predictions: (n, F) the class of every frame.
        noise: compare each frame with the first, the clean one, and not with one before.
        difficulty: how many frames before; frames of noise are harder in themselves.

    Raises:
        BadData: not one class per frame, or too few frames.
        BadValue: a difficulty other than 1, 2 and 3.
    """
    before, after = _pairs(_frames(predictions, 2), noise, difficulty)
    return (before != after).mean(1)


def top5_distances(ranked: np.ndarray, *, noise: bool, difficulty: int = 1) -> np.ndarray:
    """(n,) the mean T5D over the pairs of frames, 0 to 15, for each sequence.

    A class at place i = 0 to 4 of one frame and at place j of the other adds ``abs(i - min(j, 5))``.

    Args:
        ranked: (n, F, 5 or more) the classes of every frame, the likeliest first.

    Other arguments and errors are those of `flips`.
    """
    before, after = _pairs(_frames(ranked, 3)[..., :_RANKS], noise, difficulty)
    same = before[..., :, None] == after[..., None, :]
    moved = np.where(same.any(-1), same.argmax(-1), _RANKS)
    return np.abs(moved - np.arange(_RANKS)).sum(-1).mean(1)


def rates(measured: Mapping[str, np.ndarray], *, baseline: Mapping[str, float] | None, seed: int) -> Rates:
    """The mean of a measure for each perturbation, as per cent of the baseline's where there is one, and their mean.

    The mean is one over sequences, too, because all perturbations are made of the same images: intervals come from
    resampling these.

    Args:
        measured: perturbation -> (n,) what `flips` or `top5_distances` gave, at the difficulty of the baseline; the 10 that
            count and any others, which are in no mean.
        baseline: perturbation -> the mean of the baseline: `ALEXNET_FLIPS` on ImageNet-P.

    Raises:
        BadValue: one of the 10 is missing, the baseline lacks one or has nothing to divide by.
        BadData: the perturbations are not of the same number of images.
    """
    missing = [name for name in TEST if name not in measured]
    if missing:
        raise BadValue(f"the mean is over 10 perturbations; {', '.join(missing)} not measured", hint="measure them all")
    lengths = {len(values) for values in measured.values()}
    if len(lengths) > 1:
        raise BadData(
            f"the perturbations have {sorted(lengths)} sequences",
            hint="make all of them of the same images, in one order",
        )
    scaled = {name: np.asarray(values) * _factor(baseline, name) for name, values in measured.items()}
    each = {name: bootstrap(values, seed=seed) for name, values in scaled.items()}
    return Rates(each, bootstrap(np.mean([scaled[name] for name in TEST], 0), seed=seed))


def _factor(baseline: Mapping[str, float] | None, name: str) -> float:
    if baseline is None:
        return 1.0
    if baseline.get(name, 0) <= 0:
        raise BadValue(
            f"the baseline has no rate for {name}",
            hint="leave the perturbation out, or give a baseline that was measured on it",
        )
    return 100 / baseline[name]


def _frames(given: np.ndarray, axes: int) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != axes or array.dtype.kind not in "iu" or (axes == 3 and array.shape[2] < _RANKS):
        raise BadData(
            f"the predictions are {array.dtype} of shape {array.shape}",
            hint="give integers (n, frames)"
            if axes == 2
            else "give integers (n, frames, 5 or more), the likeliest first",
        )
    return array


def _pairs(frames: np.ndarray, noise: bool, difficulty: int) -> tuple[np.ndarray, np.ndarray]:
    """What is compared with what, (n, pairs, ...) each."""
    if isinstance(difficulty, bool) or difficulty not in (1, 2, 3):
        raise BadValue(f"difficulty is {difficulty!r}; it must be one of 1, 2, 3", hint="1 is the usual one")
    step = 1 if noise else int(difficulty)
    if frames.shape[1] <= step:
        raise BadData(f"sequences of {frames.shape[1]} frames have none that are {step} apart", hint="give more frames")
    after = frames[:, step:]
    return (frames[:, :1] if noise else frames[:, :-step]), after
