"""CLP: similar logits for any two images. A specimen of masked gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.meter import Classifier
from holdfast.foundation.registry import register
from holdfast.objectives import options
from holdfast.objectives.mixing import partners
from holdfast.objectives.objective import Examples, Objective, Terms
from holdfast.threats.threat import Threat


class Paired(NamedTuple):
    """Images ``x`` (N, C, H, W), labels ``y`` (N,) int64, and the ``partner`` (N,) int64 of each in the batch."""

    x: Tensor
    y: Tensor
    partner: Tensor


@register
@dataclass(frozen=True)
class CLP(Objective):
    """Clean logit pairing: cross-entropy on noisy images, and the distance between the logits of random pairs of them.

    Source: Kannan, Kurakin and Goodfellow, "Adversarial logit pairing" (2018). The distance is the mean over
    pairs and classes of the squared differences. There is no attack, and the threat plays no part.
    Departures: every image is in two pairs (there in one), so that the gradient is the same on average and any number of
    images will do; noisy images are clipped to [0, 1].

    A specimen, not a recommendation: it makes logits small, so that gradients vanish in the cross-entropy, and attacks
    that need none, or scale the logits, see through it (Mosbach et al., "Logit pairing methods can fool gradient-based
    attacks", 2018).

    Args:
        weight: of the distance between logits.
        sigma: the noise's standard deviation, in units of [0, 1]: 0.5 on MNIST; natural images bear less.
    """

    operations: ClassVar[tuple[str, ...]] = ("gaussian_noise",)
    divisible: ClassVar[bool] = False  # an image's logits are compared with its partner's

    weight: float = 0.5
    sigma: float = 0.5

    def __post_init__(self) -> None:
        options.weight("weight", self.weight)
        options.weight("sigma", self.sigma)

    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Paired:
        noise = keys.box_muller(keys.fold(batch.key, 1), batch.x.shape[1:]).to(batch.x.dtype)
        return Paired((batch.x + self.sigma * noise).clamp(0, 1), batch.y, partners(batch.key))

    def terms(self, model: nn.Module, prepared: Paired) -> Terms:
        logits = model(prepared.x)
        entropy = F.cross_entropy(logits, prepared.y)
        apart = F.mse_loss(logits, logits[prepared.partner])
        loss = entropy + self.weight * apart
        return Terms(loss, {"entropy": entropy.detach(), "apart": apart.detach()})
