"""Random cropping and resizing: an image is judged by enlarged parts of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.defences.options import between, whole
from holdfast.defences.resampled import resampled
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class CropAndResize(ViewDefence):
    """The mean of the probabilities of random crops, each brought back to the image's size.

    Source: Guo et al., "Countering adversarial images using input transformations" (ICLR 2018): 30 crops of 90
    of 224 pixels; the defaults are those of the baseline of that name in Pang, Xu and Zhu, "Mixup inference" (ICLR 2020):
    50 crops of 24 to 32 of 32 pixels.

    Broken by averaging over its draws (Athalye, Carlini and Wagner, "Obfuscated gradients", ICML 2018).

    Args:
        smallest: the smallest crop, as a share of the image's sides. Crops are uniform from there to the whole image, in
            whole pixels, the same share of height and width; so are their places.
        num_draws: how many crops.
        seed: of all draws.
    """

    smallest: float = 0.75
    num_draws: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        between("smallest", self.smallest, 0, 1, 0.75)
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        share, *places = keys.uniform(key, (3,), dtype=x.dtype).T
        along = []
        for length, place in zip(x.shape[2:], places):
            least = max(1, round(self.smallest * length))
            size = least + (share * (length - least + 1)).floor()
            corner = (place * (length - size + 1)).floor()[:, None]
            within = (torch.arange(length, dtype=x.dtype, device=x.device) + 0.5) * (size[:, None] / length) - 0.5
            # A crop knows nothing of the pixels beside it: its edge goes on.
            along.append(corner + torch.minimum(within.clamp_min(0), size[:, None] - 1))
        rows, columns = along
        return resampled(x, rows[:, :, None], columns[:, None, :])
