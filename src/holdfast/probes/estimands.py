"""What "the accuracy" of a classifier that draws can mean: four figures that differ, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent.randomised import Randomised
from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval
from holdfast.probes.clustered import clustered, share


def evaluations(model: Randomised, x: Tensor, ids: Tensor, num: int, *, batch: int = 64) -> Tensor:
    """The classes that ``num`` evaluations give each image, (n, num) int64: numbers 0 to ``num - 1``, own draws each.

    Score with them, and let nothing that searched or chose have seen them (see `holdfast.ascent.expected`).

    Args:
        model: what is evaluated.
        x: images (n, C, H, W) in [0, 1].
        ids: of the samples, (n,) int64: what makes an image's draws its own, whatever ``batch`` it is evaluated in.
        num: how many.
        batch: how many images are evaluated at once.
    """
    with torch.no_grad():
        seen = [
            torch.cat([model.at(number)(part, own).argmax(1) for part, own in zip(x.split(batch), ids.split(batch))])
            for number in range(num)
        ]
    return torch.stack(seen, 1)


@dataclass(frozen=True)
class Estimands:
    """Accuracies of a classifier that draws, from ``evaluations`` evaluations of each image.

    Args:
        mean: of one fresh evaluation.
        worst: that ``tries`` fresh evaluations are all right: what is left to an attacker who may try so often.
        majority: of the class that most evaluations give; a tie with a wrong class counts as wrong.
        fixed: of evaluation 0 alone: what a model with a fixed seed has.
        unstable: how often two evaluations of an image give different classes.
    """

    mean: Interval
    worst: Interval
    majority: Interval
    fixed: Interval
    unstable: Interval
    tries: int
    evaluations: int


def estimands(predicted: np.ndarray, y: np.ndarray, *, tries: int = 5, confidence: float = 0.95) -> Estimands:
    """The figures and their intervals, clustered over images.

    Args:
        predicted: (n, m) integers, the classes of m evaluations of each image.
        y: (n,) true labels.
        tries: of ``worst``, at most m: estimated without bias from all choices of so many of the m.
        confidence: of the intervals: Student's; Wilson's where every image is always right or always wrong.

    Raises:
        BadValue: shapes that do not fit, or ``tries`` outside [1, m].
    """
    predicted, y = np.asarray(predicted), np.asarray(y)
    if predicted.ndim != 2 or y.shape != predicted.shape[:1]:
        raise BadValue(
            f"predictions are {predicted.shape}, labels {y.shape}", hint="give (n, m) classes and (n,) labels"
        )
    m = predicted.shape[1]
    if not 1 <= tries <= m:
        raise BadValue(f"tries is {tries} of {m} evaluations", hint="evaluate each image more often")
    right = (predicted == y[:, None]).sum(1)
    classes = int(max(predicted.max(initial=0), y.max(initial=0))) + 1
    counts = (predicted[:, :, None] == np.arange(classes)).sum(1)
    wrong = np.where(np.arange(classes) == y[:, None], 0, counts).max(1, initial=0)
    together = np.prod([(right - i) / (m - i) for i in range(tries)], axis=0)
    pairs = max(1, m * (m - 1))
    return Estimands(
        mean=share(right / m, confidence),
        worst=share(np.maximum(together, 0.0), confidence),
        majority=share((right > wrong).astype(float), confidence),
        fixed=share((predicted[:, 0] == y).astype(float), confidence),
        unstable=share(1 - (counts * (counts - 1)).sum(1) / pairs if m > 1 else np.zeros(len(y)), confidence),
        tries=tries,
        evaluations=m,
    )


@dataclass(frozen=True)
class Gain:
    """How much more accurate a defended classifier is than the undefended one on the same images, and what that shows."""

    difference: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval lies above 0."""
        return self.difference.low > 0

    @property
    def verdict(self) -> str:
        return "a gain over the undefended model" if self.shown else "no gain over the undefended model"


def gain(defended: np.ndarray, undefended: np.ndarray, *, confidence: float = 0.95) -> Gain:
    """The paired difference, with Student's interval over images.

    Args:
        defended: (n, m) bool, whether each evaluation is right at the point that was worst for the defence.
        undefended: (n,) bool, whether the model itself is right at the point that was worst for it.
        confidence: of the interval.
    """
    return Gain(clustered(defended.mean(1) - undefended, confidence=confidence, least=-1.0, most=1.0))
