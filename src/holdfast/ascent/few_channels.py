"""The input gradient of a net's first convolution, without the padding of channels that CPUs' convolutions do."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FewChannels(nn.Module):
    """A convolution of images with few channels: the same forward, and its input gradient as one matrix product.

    oneDNN computes with blocks of 8 or 16 channels, so that the gradient in an image of one or three channels, which
    training never asks for and a search asks for at every step, costs as much as that in 16. Measured on one thread:
    1.2 to 4 times as fast for 1 to 4 channels, slower from 8 on. The weights get no gradient.

    Args:
        layer: whose weights, which are shared, and geometry it takes; `fits` says which can be taken.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.geometry = layer.stride, layer.padding, layer.dilation

    @staticmethod
    def fits(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Exact type only: a subclass or a parametrised layer may compute anything."""
        return (
            type(layer) is nn.Conv2d
            and layer.in_channels <= 4
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and isinstance(layer.padding, tuple)
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype == torch.float32
        )

    def forward(self, images: Tensor) -> Tensor:
        return _Convolution.apply(images, self.weight, self.bias, *self.geometry)  # pyrefly: ignore


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any):
        ctx.save_for_backward(weight)
        ctx.size, ctx.geometry = x.shape[2:], {"stride": stride, "padding": padding, "dilation": dilation}
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,), (weight,) = grad_outputs, ctx.saved_tensors
        columns = weight.flatten(1).t() @ grad.flatten(2)
        return F.fold(columns, ctx.size, weight.shape[2:], **ctx.geometry), None, None, None, None, None
