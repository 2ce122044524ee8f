"""How far a layer can stretch a difference: certified from above, attained from below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.foundation.errors import BadModel
from holdfast.probes.operator_norm_kinds import MODULES
from holdfast.probes.operator_norm_map import Map, Norm, lower, upper

HINT = (
    "there are bounds for linear layers, convolutions, pooling, padding, batch norms with running statistics, activations, "
    "sums, cat, scaling by constants and rearrangement; attention, layer norms and products of features have none"
)


@dataclass(frozen=True)
class OperatorNorm:
    """The norm lies in [``lower``, ``upper``]: ``upper`` is certified, ``lower`` was attained."""

    lower: float
    upper: float


def operator_norm(layer: nn.Module, shape: Sequence[int], *, norm: Norm = "l2") -> OperatorNorm:
    """The largest ||layer(x) - layer(y)|| / ||x - y|| of a layer in evaluation mode; computed in float64.

    Args:
        layer: of a kind in `MODULES`.
        shape: of one input, without the batch: (C, H, W) for images.
        norm: of both differences. In Linf the ends differ by rounding alone.

    Raises:
        BadModel: a layer of another kind, or one whose class says too little: with hooks, or a forward of its own.
    """
    if not known(layer):
        raise BadModel(f"nothing bounds the operator norm of {type(layer).__name__}", hint=HINT)
    place = next(iter([*layer.parameters(), *layer.buffers()]), torch.empty(0)).device
    with frozen(layer):
        found = of_module(layer, torch.zeros(1, *shape, dtype=torch.float64, device=place))
        return OperatorNorm(lower(found, norm), upper(found, norm))


def known(layer: nn.Module) -> bool:
    """Whether the layer is of a kind in `MODULES`, and does what that does."""
    return _rule(layer) is not None


def of_module(layer: nn.Module, x: Tensor) -> Map:
    """The map of a `known` layer in evaluation mode, at inputs like ``x``, (1, ...) float64."""
    rule = _rule(layer)
    assert rule is not None
    return rule(layer, x)


def _rule(layer: nn.Module) -> Callable[[nn.Module, Tensor], Map] | None:
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return None
    for kind in type(layer).__mro__:
        if kind in MODULES:  # a parametrised layer is of a class of its own, with the same forward
            return MODULES[kind] if type(layer).forward is kind.forward else None
    return None
