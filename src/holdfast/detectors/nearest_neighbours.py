"""Nearest neighbours: features far from those of the training images are suspicious."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.detectors.detector import Fixed, Judged, prepared
from holdfast.detectors.features import Features
from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class NearestNeighbours:
    """The distance to the k-th nearest of the clean images, between features of length 1 on a layer.

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors" (ICML 2022), section 3; they take k = 50
    of 50,000 CIFAR-10 images. Labels are not used.

    Args:
        k: which neighbour.
        layer: as for `holdfast.detectors.mahalanobis.Mahalanobis`.
    """

    flat: ClassVar[str] = ""

    k: int = 10
    layer: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise BadValue(f"k is {self.k!r}; it must be a whole number from 1", hint="for example k=10")

    @torch.inference_mode(False)
    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fixed:
        features = Features(prepared(module, x, y)[0], self.layer)
        if len(x) < self.k:
            raise BadData(
                f"{len(x)} images have no neighbour number {self.k}", hint="give more clean images, or a lower k"
            )
        bank = F.normalize(features.of(x))

        def judge(x: Tensor) -> Judged:
            logits, seen = features(x)
            # Not by a product of matrices: of near neighbours it would leave rounding alone.
            apart = torch.cdist(F.normalize(seen), bank, compute_mode="donot_use_mm_for_euclid_dist")
            return Judged(logits, apart.kthvalue(self.k, dim=1).values)

        return Fixed(judge)
