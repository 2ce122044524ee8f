"""Colour."""

from __future__ import annotations

from torch import Tensor


def luma(x: Tensor) -> Tensor:
    """The grey (N,1,H,W) of images (N,C,H,W) of floats, C = 1 or 3: the weights of ITU-R BT.601. A new tensor."""
    if x.shape[1] == 1:
        return x.clone()
    red, green, blue = x.split(1, 1)
    return (red * 0.299).add_(green * 0.587).add_(blue * 0.114)
