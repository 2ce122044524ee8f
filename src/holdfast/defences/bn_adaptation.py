"""Batch norm by the statistics of the images at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.ascent.copied import copied
from holdfast.ascent.meter import Classifier
from holdfast.defences.defence import Opening
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.foundation.registry import register


@register
@dataclass(frozen=True)
class BNAdaptation:
    """Batch norm takes the statistics of the test batch, mixed with those of training.

    Of a batch of n images every mean and variance is N / (N + n) times that of training plus n / (N + n) times that of the
    batch; nothing is kept from one batch to the next.

    Sources: Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation" (NeurIPS
    2020), equation 3; Nado et al., "Evaluating prediction-time batch normalization for robustness under covariate shift"
    (2020), which is ``prior=0``.
    Departures: batch norms of all dimensions are adapted; the variance of a batch is the biased one, as in training, so
    that ``prior=0`` is batch norm's own training mode to the rounding.

    It fails on small batches and on batches of few classes, where the statistics are not those of the corruption.

    Args:
        prior: N, how many images the statistics of training count for.
    """

    transductive: ClassVar[bool] = True

    prior: float = 16

    def __post_init__(self) -> None:
        if not 0 <= self.prior < math.inf:
            raise BadValue(
                f"prior is {self.prior}; it is a number of images", hint="for example prior=16, or 0 for none"
            )

    def wrap(self, module: nn.Module) -> Classifier:
        return Adapted(adapted_copy(module, prior=self.prior), self)

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        return Opening("core", module), Opening("adapted", self.wrap(module))


class Adapted(nn.Module):
    """A module under a defence that says so where it is printed and fingerprinted."""

    def __init__(self, core: nn.Module, defence: object) -> None:
        super().__init__()
        self.core = core
        self.defence = defence
        self.train(core.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)

    def extra_repr(self) -> str:
        return repr(self.defence)


def adapted_copy(module: Callable[[Tensor], Tensor], *, prior: float) -> nn.Module:
    """A copy of ``module`` in eval mode and without parameter gradients, whose batch norms adapt to every batch.

    Gradients pass through the statistics to the images.

    Raises:
        BadModel: it has no batch norm that keeps statistics, or cannot be copied.
    """
    if not isinstance(module, nn.Module) or not batch_norms(module):
        raise BadModel(
            "the model has no batch norm that keeps statistics of its training, and nothing else adapts",
            hint="evaluate it as it is; layer norm and group norm go by each image already",
        )
    core = copied(module)
    core.eval().requires_grad_(False)
    for layer in batch_norms(core).values():
        layer.momentum = 0.0  # train() on the copy must not move the statistics of training
        layer.register_forward_hook(partial(_renormalised, prior))
    return core


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that keep statistics, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def _renormalised(prior: float, layer: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """What a batch norm gives by the mixed statistics, in whatever mode it is."""
    (x,) = inputs
    if not len(x):
        return output
    var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    past = prior / (prior + len(x))
    if past and layer.running_mean is not None and layer.running_var is not None:
        mean, var = past * layer.running_mean + (1 - past) * mean, past * layer.running_var + (1 - past) * var
    scale = (var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))
