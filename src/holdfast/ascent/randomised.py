"""Classifiers that draw: their draws are numbered, so that a search can hold them and a score can take fresh ones."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Randomised(Protocol):
    """A classifier as a pure function of images and of the number of an evaluation."""

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> logits (N, K).

        ``ids``, (N,) int64, gives every image draws of its own, whatever batch it comes in. Without them all images share
        the evaluation's draws: common random numbers, which a search needs whose images change from step to step.
        """
        ...

    def at(self, *evaluation: int) -> Randomised:
        """The same classifier with the draws of another evaluation; each sequence of numbers names one."""
        ...
