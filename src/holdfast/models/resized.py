"""Images of one size for a classifier that takes another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.errors import BadModel


class Resized(nn.Module):
    """``core`` behind a bilinear, antialiased resizing of the whole image to ``size`` (H,W); differentiable.

    It is a part of the classifier: a radius is measured on the images as they are given.
    """

    def __init__(self, core: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.core = core
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return self.core(F.interpolate(images, self.size, mode="bilinear", antialias=True))

    def extra_repr(self) -> str:
        return "to {}x{}".format(*self.size)


def resized(core: nn.Module, wanted: tuple[int, int, int] | None, given: tuple[int, int, int] | None) -> nn.Module:
    """A classifier of images ``wanted`` (C,H,W) as one of images ``given``; as it is where one of them is not known.

    Raises:
        BadModel: the numbers of channels differ.
    """
    if wanted is None or given is None or wanted == given:
        return core
    if wanted[0] != given[0]:
        raise BadModel(
            f"the model takes images with {wanted[0]} channels and the images have {given[0]}",
            hint="convert the images, or give a model for them",
        )
    front = Resized(core, wanted[1:])
    front.training = core.training  # not through train(), which would reach into the model
    return front
