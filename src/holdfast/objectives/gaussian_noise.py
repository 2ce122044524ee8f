"""Training on Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from holdfast import keys
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


@register
@dataclass(frozen=True)
class GaussianNoise(Objective):
    """Cross-entropy on images of which a share has Gaussian noise added to every value.

    Source: Rusak et al., "A simple way to make neural networks robust against diverse image corruptions" (ECCV 2020),
    section 3.1, one fixed deviation; noisy images are clipped to [0, 1] as there. The threat plays no part.
    Departure: each image is noisy by its own draw, so that the share holds on average and no image depends on its batch;
    there it is half of each batch exactly.

    The noise corruptions are of the same family: an audit of corruptions says so, and counts the others apart.

    Args:
        sigma: the standard deviation, in units of [0, 1]; the authors found 0.5 best on ImageNet.
        share: of the images, from 0 to 1.
        clip: whether noisy images are clipped to [0, 1]. Smoothing does not clip (Cohen et al. 2019), so that nets which are
            to be smoothed are trained without.
    """

    operations: ClassVar[tuple[str, ...]] = ("gaussian_noise",)

    sigma: float = 0.1
    share: float = 0.5
    clip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 10:
            raise BadValue(f"sigma is {self.sigma}; it is a deviation in units of [0, 1]", hint="for example sigma=0.1")
        if not 0 <= self.share <= 1:
            raise BadValue(f"share is {self.share}; it is a share of the images", hint="for example share=0.5")

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Examples:
        noisy = keys.uniform(keys.fold(batch.key, 0), (1, 1, 1)) < self.share
        noise = keys.box_muller(keys.fold(batch.key, 1), batch.x.shape[1:]).to(batch.x.dtype)
        changed = batch.x + self.sigma * noise
        return batch._replace(x=(changed.clamp_(0, 1) if self.clip else changed).where(noisy, batch.x))

    def terms(self, model: nn.Module, prepared: Examples) -> Terms:
        loss = F.cross_entropy(model(prepared.x), prepared.y)
        return Terms(loss, {"noise": loss.detach()})
