"""A classifier that rejects what its detector finds suspicious."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.detectors.detector import Fitted
from holdfast.foundation.calibration import Threshold, threshold


@dataclass(frozen=True)
class Outcomes:
    """What m evaluations of n images came to: ``predicted`` (n, m) int64, ``score`` (n, m), ``rejected`` (n, m) bool."""

    predicted: Tensor
    score: Tensor
    rejected: Tensor

    def served(self, y: Tensor) -> Tensor:
        """Whether the image is accepted and given its label: what a clean one should be; (n, m) bool."""
        return (self.predicted == y[:, None]) & ~self.rejected

    def safe(self, y: Tensor) -> Tensor:
        """Whether the image is rejected or given its label: what an attacked one should be; (n, m) bool."""
        return (self.predicted == y[:, None]) | self.rejected


@dataclass(frozen=True)
class Guard:
    """A classifier, its detector, and the score from which on an image is rejected.

    Args:
        fitted: the two.
        threshold: scores of at least its value are rejected.
        scale: how much of the score counts for an attack as much as one logit; it decides what a search climbs, and
            nothing of what it found.
    """

    fitted: Fitted
    threshold: Threshold
    scale: float = 1.0

    @classmethod
    def calibrated(
        cls, fitted: Fitted, x: Tensor, *, false_alarms: float = 0.05, ids: Tensor | None = None, batch: int = 256
    ) -> Guard:
        """The guard that rejects a new clean image with a probability of at most ``false_alarms``.

        ``scale`` becomes the ratio of two deviations over these images: of the score, and of the gap between the two
        largest logits.

        Args:
            fitted: a fitted detector.
            x: held-out clean images, (n, C, H, W) floats in [0, 1]: neither those it was fitted on nor those under test.
            false_alarms: in (0, 1).
            ids: give every image draws of its own; without them the threshold is that of evaluation 0's draws.
            batch: how many images are evaluated at once.

        Raises:
            BadValue: as `holdfast.foundation.calibration.threshold`.
        """
        logits, score = _judged(fitted, x, ids, batch)
        found = threshold(score.double().cpu().numpy(), false_alarms=false_alarms)
        first, second = logits.double().topk(2).values.unbind(1)
        ratio = float(score.double().std() / (first - second).std())
        return cls(fitted, found, ratio if 0 < ratio < float("inf") else 1.0)

    def alarm(self, score: Tensor) -> Tensor:
        """By how much a score exceeds the threshold, in units of ``scale``, (N,) float64: rejected where at least 0."""
        # float32 would round the threshold onto the score beside it, which is not to be rejected.
        return (score.double() - self.threshold.value) / self.scale

    def evaluate(self, x: Tensor, *, ids: Tensor | None = None, num: int = 1, batch: int = 256) -> Outcomes:
        """The outcomes of evaluations 0 to ``num - 1``: fresh draws, where the detector draws.

        Args:
            x: images, (n, C, H, W) floats in [0, 1].
            ids: of the samples, (n,) int64: what makes an image's draws its own.
            num: how many evaluations; more than one are equal where the detector does not draw.
            batch: how many images are evaluated at once.
        """
        seen = [_judged(self.fitted.at(number), x, ids, batch) for number in range(num)]
        predicted = torch.stack([logits.argmax(1) for logits, _ in seen], 1)
        score = torch.stack([score for _, score in seen], 1)
        return Outcomes(predicted, score, self.alarm(score) >= 0)


def _judged(fitted: Fitted, x: Tensor, ids: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        parts = [
            fitted(part, None if ids is None else ids[at * batch : (at + 1) * batch])
            for at, part in enumerate(x.split(batch))
        ]
    return torch.cat([part.logits for part in parts]), torch.cat([part.score for part in parts])
