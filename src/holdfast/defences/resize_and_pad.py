"""Random resizing and padding: an image is judged by smaller or larger copies of it, put somewhere on black."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast import keys
from holdfast.defences.options import between, whole
from holdfast.defences.resampled import resampled, stretched
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class ResizeAndPad(ViewDefence):
    """The mean of the probabilities of copies at random sizes and places on a black canvas.

    Source: Xie et al., "Mitigating adversarial effects through randomization" (ICLR 2018): images of 299 pixels
    at sizes from 299 to 330 on 331, which is ``smallest=1, canvas=331/299``, for models that take any size. The defaults
    keep the image's own size: 24 to 32 of 32 pixels, the sizes of the baseline of that name in Pang, Xu and Zhu, "Mixup
    inference" (ICLR 2020), whose code crops where this resizes. Departure: bilinear, so that a gradient passes.

    Broken by averaging over its draws (Athalye, Carlini and Wagner, "Obfuscated gradients", ICML 2018).

    Args:
        smallest: the smallest size, in shares of the image's sides.
        canvas: the canvas's size likewise, at least ``smallest``. Sizes are uniform between the two, whole pixels, the same
            share of height and width; so are the places.
        num_draws: how many copies.
        seed: of all draws.
    """

    smallest: float = 0.75
    canvas: float = 1.0
    num_draws: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        between("smallest", self.smallest, 0, 4, 0.75)
        between("canvas", self.canvas, 0, 4, 1)
        if self.canvas < self.smallest:
            raise BadValue(
                f"canvas is {self.canvas}, below smallest, {self.smallest}", hint="the largest copy fills the canvas"
            )
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        share, *places = keys.uniform(key, (3,), dtype=x.dtype).T
        along = []
        for length, place in zip(x.shape[2:], places):
            onto = max(1, round(self.canvas * length))
            least = min(onto, max(1, round(self.smallest * length)))
            size = least + (share * (onto - least + 1)).floor()
            along.append(stretched(size, (place * (onto - size + 1)).floor(), length, onto))
        rows, columns = along
        return resampled(x, rows[:, :, None], columns[:, None, :])
