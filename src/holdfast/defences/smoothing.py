"""Randomised smoothing: the class that a model gives most noisy copies of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.ascent.copied import copied
from holdfast.defences.defence import Opening
from holdfast.defences.gaussian_noise import noisy
from holdfast.defences.options import between, whole
from holdfast.defences.viewed import ViewDefence, Viewed
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class Smoothing(ViewDefence):
    """A vote of noisy copies: the one defence here that comes with a proof.

    The class that the model gives noisy copies with the largest probability cannot change within an L2 distance that grows
    with that probability. `holdfast.defences.certificate` estimates it. The answer here is a vote of ``num_draws`` copies,
    which estimates the class: the logarithm of (votes + 1) / (copies + classes). The model has to be trained on such noise
    (the objective ``gaussian_noise``); copies are not clipped to [0, 1], which would void the proof.

    Source: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019).

    Openings: votes are flat, so gradients are those of the copies' mean probability; the opening ``probabilities`` is that
    mean itself (Salman et al., "Provably robust deep learning via adversarially trained smoothed classifiers", NeurIPS
    2019).

    Args:
        sigma: the noise's standard deviation; the paper has 0.12, 0.25, 0.5 and 1 on CIFAR-10.
        num_draws: how many copies vote.
        seed: of all draws.
    """

    sigma: float = 0.25
    num_draws: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        between("sigma", self.sigma, 0, math.inf, 0.25)
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        return noisy(x, key, self.sigma)

    def wrap(self, module: nn.Module) -> Viewed:
        return Viewed(copied(module), self, gather=votes)

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        defended = self.wrap(module)
        probabilities = Viewed(defended.core, self)
        return Opening("core", module), Opening("defended", defended), Opening("probabilities", probabilities)


def votes(logits: Tensor) -> Tensor:
    """The logarithm of the views' votes, (B, N, L) -> (B, L), with one more for every class; backward, of probabilities."""
    soft = logits.softmax(2)
    hard = functional.one_hot(logits.argmax(2), logits.shape[2]).to(soft.dtype) + (soft - soft.detach())
    num, classes = logits.shape[1:]
    return torch.log((hard.sum(1) + 1) / (num + classes))
