"""The true forward with another backward: gradients that see past dead units, flat steps and rounding.

A trained ReLU net can be flat around its training images, because the units that would report a way out are switched off
there, and a ReLU that is off passes no gradient. A search does not need the derivative; it needs a direction in which the
loss rises further out. So the forward stays what it is, to the last bit, and only what is passed back changes. Success is
always judged by the forward.

No module is touched and none is wrapped: the calls that a forward makes are watched (`torch.overrides`), so that
``F.relu`` in the middle of somebody's code is seen as well as ``nn.ReLU``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue, UnknownName


@dataclass(frozen=True)
class Backward:
    """How the backward pass departs from the true one.

    Of every ReLU (and its relatives: leaky ReLU, ReLU6, hardtanh, clamp) the derivative becomes
    ``sigmoid(z / (tau * rms))``, rms the root mean square of the layer's inputs z for that image; of a max-pool the
    weights of a softmax at the temperature ``tau * rms``; of round, floor, ceil, trunc and sign, which are flat, that of
    the identity (Bengio et al. 2013; Athalye et al. 2018, section 4.1, BPDA). With ``slope`` in place of ``tau`` a ReLU
    that is off passes that share of the gradient, and a max-pool is left as it is.

    Args:
        tau: the softness in units of the layer's rms; 0.1 to 0.5. Exclusive with ``slope``.
        slope: 0.01 to 0.1.
        straight_through: names of submodules, as ``named_modules`` has them, whose backward becomes the identity; their
            outputs must have the shape of their inputs.

    Raises:
        BadValue: both or neither of ``tau`` and ``slope`` (unless only ``straight_through`` is wanted), or not positive.
    """

    tau: float | None = None
    slope: float | None = None
    straight_through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "straight_through", tuple(self.straight_through))
        for name in ("tau", "slope"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadValue(f"{name} is {value!r}; it must be positive", hint="for example tau=0.3, or slope=0.05")
        if self.tau is not None and self.slope is not None:
            raise BadValue("tau and slope are both given", hint="give one of them: tau=0.3, or slope=0.05")
        if self.tau is None and self.slope is None and not self.straight_through:
            raise BadValue(
                "the backward pass is left as it is",
                hint="give tau=0.3, slope=0.05 or straight_through=('layer name',)",
            )


class Through:
    """A classifier with the forward of ``classifier`` and the backward that ``rule`` says.

    Args:
        classifier: images in [0, 1] -> logits.
        rule: what is passed back.

    Raises:
        UnknownName: ``straight_through`` names a submodule that the classifier does not have.
        BadValue: it names one, and the classifier is no ``nn.Module``.
    """

    def __init__(self, classifier: Classifier, rule: Backward) -> None:
        self.classifier = classifier
        self.rule = rule
        self._identities: list[nn.Module] = []
        if rule.straight_through:
            if not isinstance(classifier, nn.Module):
                raise BadValue(
                    "straight_through names layers of a classifier that is no nn.Module", hint="leave it out"
                )
            layers = dict(classifier.named_modules())
            for name in rule.straight_through:
                if name not in layers or not name:
                    raise UnknownName.among("layer", name, [each for each in layers if each])
                self._identities.append(layers[name])

    def __call__(self, x: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.classifier(x)
        hooks = [layer.register_forward_hook(_identity) for layer in self._identities]
        try:
            with _Watch(self.rule):
                return self.classifier(x)
        finally:
            for hook in hooks:
                hook.remove()


def _identity(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    x = given[0]
    if x.shape != out.shape:
        raise BadValue(
            f"a layer of straight_through takes {tuple(x.shape)} and returns {tuple(out.shape)}",
            hint="the identity can stand in only for layers that keep the shape",
        )
    return _StraightThrough.apply(x, out.detach())


class _Watch(TorchFunctionMode):
    """Replaces the functions of `_RULES` while a forward runs."""

    def __init__(self, rule: Backward) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = _RULES.get(func)
        if made is not None and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            replaced = made(self.rule, *args, **(kwargs or {}))
            if replaced is not None:
                return replaced
        return func(*args, **(kwargs or {}))


def _rms(x: Tensor, tau: float) -> Tensor:
    """``tau`` times the root mean square of each row, shaped to broadcast over ``x``."""
    dims = tuple(range(1, x.dim())) if x.dim() > 1 else (0,)
    return tau * x.square().mean(dims, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)


class _Ramp(torch.autograd.Function):
    """``low`` below, ``high`` above, x between; off, it passes ``slope`` in the forward (a leaky ReLU)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, slope: float, rule: Backward) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ends, ctx.slope, ctx.rule = (low, high), slope, rule
        return F.leaky_relu(x, slope) if slope else x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,), (low, high) = ctx.saved_tensors, ctx.ends
        rule = ctx.rule
        if rule.tau is not None:
            scale = _rms(x, rule.tau)
            on = torch.sigmoid((x - low) / scale)
            if high != float("inf"):
                on = on * torch.sigmoid((high - x) / scale)
        else:
            on = torch.where((x > low) & (x < high), x.new_ones(()), x.new_tensor(rule.slope))
        return grads[0] * (ctx.slope + (1 - ctx.slope) * on), None, None, None, None


class _StraightThrough(torch.autograd.Function):
    """The second argument forward, the identity of the first backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


def _relu(rule: Backward, x: Tensor, inplace: bool = False) -> Tensor:
    return _Ramp.apply(x, 0.0, float("inf"), 0.0, rule)


def _relu6(rule: Backward, x: Tensor, inplace: bool = False) -> Tensor:
    return _Ramp.apply(x, 0.0, 6.0, 0.0, rule)


def _leaky(rule: Backward, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return _Ramp.apply(x, 0.0, float("inf"), negative_slope, rule)


def _hardtanh(
    rule: Backward, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor | None:
    return _Ramp.apply(x, min_val, max_val, 0.0, rule)


def _clamp(rule: Backward, x: Tensor, min: Any = None, max: Any = None, **more: Any) -> Tensor | None:
    """A clamp to numbers; to tensors it is left as it is."""
    low, high = float("-inf") if min is None else min, float("inf") if max is None else max
    if more or isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    return _Ramp.apply(x, float(low), float(high), 0.0, rule)


def _clamp_min(rule: Backward, x: Tensor, min: Any) -> Tensor | None:
    return _clamp(rule, x, min)


def _max_pool(
    rule: Backward,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """The maximum forward; backward as if every window were weighted by a softmax."""
    if rule.tau is None or x.dim() != 4 or ceil_mode or return_indices:
        return None
    pooled = F.max_pool2d(x.detach(), kernel_size, stride, padding, dilation)
    if padding:
        low = torch.finfo(x.dtype).min / 4  # such a value weighs nothing, and no difference of two of them overflows
        x = F.pad(x, [side for pad in reversed(_pair(padding)) for side in (pad, pad)], value=low)
    windows = F.unfold(x, kernel_size, dilation, 0, stride or kernel_size)
    n, c = x.shape[:2]
    windows = windows.view(n, c, -1, windows.shape[-1])
    with torch.no_grad():
        kept = windows.masked_fill(windows < torch.finfo(x.dtype).min / 8, 0)
        weight = (windows / _rms(kept, rule.tau)).softmax(2)
    return _StraightThrough.apply((windows * weight).sum(2).view_as(pooled), pooled)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _step(function: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    def replaced(rule: Backward, x: Tensor, **more: Any) -> Tensor | None:
        return _StraightThrough.apply(x, function(x.detach(), **more))

    return replaced


_RULES: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    F.relu6: _relu6,
    F.leaky_relu: _leaky,
    F.hardtanh: _hardtanh,
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip), _clamp),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _clamp_min),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    **{
        each: _step(getattr(torch, name))
        for name in ("round", "floor", "ceil", "trunc", "sign")
        for each in (getattr(torch, name), getattr(Tensor, name))
    },
}
