"""Which map each kind of layer, and each function of torch, is in evaluation mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.errors import BadModel
from holdfast.probes.operator_norm_convolution import circle, circular_norm, largest_singular
from holdfast.probes.operator_norm_map import Exact, Linear, Map, upper

Ints = int | Sequence[int]


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A linear layer on the last axis, (D, C). The bound is the norm."""
    own = weight.detach().double()
    return Linear(
        lambda z: F.linear(z, own),
        lambda z: F.linear(z, own.abs()),
        x,
        lambda: largest_singular(own[None]),
        (lambda factor: dense(x, own * factor[:, None])) if x.dim() == 2 else None,
    )


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    mode: str = "constant",
) -> Linear:
    """A convolution, padded by zeros or by another ``mode`` of ``F.pad``.

    On a circle that the stride divides the bound is the norm. Padding that repeats values stretches, too, and the bound
    is the product with that.
    """
    own, num = weight.detach().double(), weight.dim() - 2
    strides, holes = _each(stride, num), _each(dilation, num)
    extents = [(k - 1) * d + 1 for k, d in zip(own.shape[2:], holes)]
    if padding == "same":
        sides = [((e - 1) // 2, e // 2) for e in extents]
    else:
        sides = [(p, p) for p in _each(0 if isinstance(padding, str) else padding, num)]
    sizes = x.shape[2:]
    wide = [n + sum(p) for n, p in zip(sizes, sides)]
    outputs = [(n - e) // s + 1 for n, e, s in zip(wide, extents, strides)]
    pad = partial(F.pad, pad=[each for pair in reversed(sides) for each in pair], mode=mode)

    def applied(kernel: Tensor, z: Tensor) -> Tensor:
        return _FORWARD[num](pad(z), kernel, None, strides, 0, holes, groups)

    def bound() -> float:
        norm = partial(circular_norm, own, stride=strides, dilation=holes, groups=groups)
        if mode == "constant":
            return norm([circle(*each) for each in zip(sizes, outputs, extents, strides, *zip(*sides))])
        if mode == "circular" and all(n % s == 0 and m * s <= n for n, m, s in zip(sizes, outputs, strides)):
            return norm(sizes)
        return upper(unsigned(x, pad), "l2") * norm(
            [circle(*each, 0, 0) for each in zip(wide, outputs, extents, strides)]
        )

    def rescaled(factor: Tensor) -> Linear:
        scaled = own * factor.view(-1, *([1] * (num + 1)))
        return convolution(x, scaled, None, stride, padding, dilation, groups, mode=mode)

    return Linear(partial(applied, own), partial(applied, own.abs()), x, bound, rescaled)


def transposed(layer: Any, x: Tensor) -> Linear:
    """The adjoint of the convolution from its outputs to its inputs, which has the same norm."""
    own, num = layer.weight.detach().double(), layer.weight.dim() - 2
    strides, holes, pads = (_each(each, num) for each in (layer.stride, layer.dilation, layer.padding))
    more = _each(layer.output_padding, num)

    def applied(kernel: Tensor, z: Tensor) -> Tensor:
        return _BACKWARD[num](z, kernel, None, strides, pads, more, layer.groups, holes)

    def bound() -> float:
        extents = [(k - 1) * d + 1 for k, d in zip(own.shape[2:], holes)]
        places = zip(applied(own, x).shape[2:], x.shape[2:], extents, strides, pads, pads)
        return circular_norm(
            own, [circle(*each) for each in places], stride=strides, dilation=holes, groups=layer.groups
        )

    return Linear(partial(applied, own), partial(applied, own.abs()), x, bound)


def unsigned(x: Tensor, f: Callable[[Tensor], Tensor]) -> Linear:
    """A map without negative weights, but for a constant: averages, sums, paddings, whatever moves entries around."""
    shift = f(torch.zeros_like(x))
    return Linear(lambda z: f(z) - shift, lambda z: f(z) - shift, x)


def max_pool(
    x: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    num: int,
) -> Exact:
    """In L2 the root of how many windows share a place, which may be the largest of each: 1 without overlap."""
    sizes = _each(kernel_size, num)
    strides = sizes if not stride else _each(stride, num)
    shared = 1
    for n, k, s, p, d in zip(x.shape[-num:], sizes, strides, _each(padding, num), _each(dilation, num)):
        room = n + 2 * p - d * (k - 1) - 1
        outputs = (math.ceil(room / s) if ceil_mode else room // s) + 1
        places = torch.arange(outputs)[:, None] * s + torch.arange(k) * d - p
        shared *= int(places[(places >= 0) & (places < n)].bincount().max())
    return Exact(math.sqrt(shared), 1.0)


def scale(layer: nn.Module) -> Tensor:
    """What a batch norm in evaluation mode multiplies each channel by, (C,) float64.

    Raises:
        BadModel: one that normalises by the batch even then.
    """
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    if layer.running_var is None:
        raise BadModel(
            f"nothing bounds {type(layer).__name__} without running statistics", hint="keep track_running_stats=True"
        )
    factor = (layer.running_var.detach().double() + layer.eps).rsqrt()
    return factor if layer.weight is None else factor * layer.weight.detach().double()


def _conv(layer: Any, x: Tensor) -> Map:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return convolution(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups, mode=mode)


def _pool(num: int, layer: Any, x: Tensor) -> Map:
    return max_pool(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, num=num)


def _norm(layer: nn.Module, x: Tensor) -> Map:
    return _by(float(scale(layer).abs().max()))


def _by(slope: float) -> Exact:
    return Exact(slope, slope)


def _each(value: Ints, num: int) -> list[int]:
    return [value] * num if isinstance(value, int) else [*value] * (num if len(value) == 1 else 1)


_FORWARD: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_BACKWARD: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

_SLOPES: Mapping[type[nn.Module], float | Callable[[Any], float]] = {
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Hardtanh: 1.0,
    nn.Tanh: 1.0,
    nn.Softplus: 1.0,
    nn.Softsign: 1.0,
    nn.LogSigmoid: 1.0,
    nn.LeakyReLU: lambda layer: max(1.0, abs(layer.negative_slope)),
    nn.PReLU: lambda layer: max(1.0, float(layer.weight.abs().max())),
    nn.ELU: lambda layer: max(1.0, abs(layer.alpha)),
    nn.CELU: 1.0,
    nn.SELU: 1.7580993408473769,  # at 0, from below
    nn.Sigmoid: 0.25,
    nn.Hardsigmoid: 1 / 6,
    nn.Softmax: 0.5,  # the variance of v under the probabilities is at most (max v - min v)^2 / 4
    nn.SiLU: 1.0998394,  # its largest slope, raised in the last digit; so are the next two
    nn.GELU: lambda layer: 1.1289042 if layer.approximate == "none" else 1.1290,
    nn.Mish: 1.0885,
    nn.Hardswish: 1.5,
}
_UNSIGNED = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    *(nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

MODULES: Mapping[type[nn.Module], Callable[[Any, Tensor], Map]] = {
    nn.Linear: lambda layer, x: dense(x, layer.weight),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed),
    **dict.fromkeys(BATCH_NORMS, _norm),
    **{kind: partial(_pool, num) for num, kind in enumerate((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 1)},
    **dict.fromkeys(_UNSIGNED, lambda layer, x: unsigned(x, layer)),
    **{
        kind: partial(lambda slope, layer, x: _by(slope(layer) if callable(slope) else slope), slope)
        for kind, slope in _SLOPES.items()
    },
}
"""The map of a layer of each kind, at inputs like x: exact kinds, whose subclasses may compute anything."""


def _as_layer(kind: type[nn.Module], x: Tensor, *args: Any, **options: Any) -> Map:
    return MODULES[kind](kind(*args, **options), x)


def _moved(target: Callable[..., Tensor] | str, x: Tensor, *args: Any, **options: Any) -> Map:
    if isinstance(target, str):
        return unsigned(x, lambda z: getattr(z, target)(*args, **options))
    return unsigned(x, lambda z: target(z, *args, **options))


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Map:
    if training:
        raise BadModel("F.dropout draws in evaluation mode, too", hint="call F.dropout(x, p, self.training)")
    return _by(1.0)


_LAYERS: Mapping[type[nn.Module], tuple[Any, ...]] = {
    nn.ReLU: (F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"),
    nn.ReLU6: (F.relu6,),
    nn.Hardtanh: (F.hardtanh,),
    nn.LeakyReLU: (F.leaky_relu,),
    nn.ELU: (F.elu,),
    nn.SELU: (F.selu,),
    nn.Tanh: (F.tanh, torch.tanh, "tanh"),
    nn.Sigmoid: (F.sigmoid, torch.sigmoid, "sigmoid"),
    nn.Softmax: (F.softmax, torch.softmax, "softmax"),
    nn.SiLU: (F.silu,),
    nn.GELU: (F.gelu,),
    nn.Mish: (F.mish,),
    nn.Hardswish: (F.hardswish,),
    nn.Softplus: (F.softplus,),
}
_MOVES = (
    *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose),
    *(
        "flatten",
        "reshape",
        "view",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "contiguous",
        "clone",
        "expand",
        "repeat",
    ),
    *(torch.mean, torch.sum, "mean", "sum"),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(F.pad, F.pixel_shuffle, F.pixel_unshuffle, operator.getitem),
)

FUNCTIONS: Mapping[Any, Callable[..., Map]] = {
    F.linear: dense,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), convolution),
    **{f: partial(max_pool, num=num) for num, f in enumerate((F.max_pool1d, F.max_pool2d, F.max_pool3d), 1)},
    **{
        f: partial(max_pool, num=num) for num, f in enumerate((torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), 1)
    },
    F.dropout: _dropout,
    **{f: partial(_as_layer, kind) for kind, functions in _LAYERS.items() for f in functions},
    **{f: partial(_moved, f) for f in _MOVES},
}
"""The map of a function of torch, or of a method by its name, at inputs like x and with its other arguments."""
