"""Mahalanobis: features far from those of every class are suspicious."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.detectors.features import Features
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class Mahalanobis:
    """The squared Mahalanobis distance of the features on a layer from the nearest class: normal distributions with a mean
    for each class and one covariance.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks"
    (NeurIPS 2018), section 2.
    Departures: one layer, without their noise on the input and without their regression over layers, which learns from
    adversarial images. Directions in which the clean features do not vary are left out (the pseudo-inverse): a change along
    them is not seen.

    Args:
        layer: whose output is judged, by the name that ``named_modules`` gives it; of maps the mean over the pixels. None:
            the input of the last linear layer.
    """

    flat: ClassVar[str] = ""

    layer: str | None = None

    @torch.inference_mode(False)
    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        features = Features(prepared(module, x, y)[0], self.layer)
        found = features.of(x)
        means, whiten = tied(found, y)
        centres = (means @ whiten).to(found.dtype)
        whiten = whiten.to(found.dtype)

        def judge(x: Tensor) -> Judged:
            logits, seen = features(x)
            apart = (seen @ whiten)[:, None] - centres
            return Judged(logits, apart.square().sum(2).amin(1))

        return Fixed(judge)


def tied(features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each class that occurs, (L, D), and W (D, R) with W W' the pseudo-inverse of the covariance within
    classes, in float64."""
    exact = features.double()
    classes, place = y.unique(return_inverse=True)
    sums = exact.new_zeros(len(classes), exact.shape[1]).index_add(0, place, exact)
    means = sums / place.bincount()[:, None]
    apart = exact - means[place]
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(apart))
    kept = values > values.amax() * len(values) * torch.finfo(features.dtype).eps
    return means, vectors[:, kept] / values[kept].sqrt()
