"""The classifier as detectors are given it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.ascent.copied import copied
from holdfast.audit.defended.views import Tally


class Real(nn.Module):
    """A net whose last output is a class of adversarial images, without it: the classifier that is attacked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, :-1]


def counted(module: nn.Module, tally: Tally) -> nn.Module:
    """A copy of the module whose evaluations are counted in ``tally``, and those of every copy of it."""
    copy = copied(module)

    def count(_: nn.Module, inputs: Sequence[Tensor]) -> None:
        tally.cost[0] += len(inputs[0])
        tally.cost[1] += len(inputs[0]) * (inputs[0].requires_grad and torch.is_grad_enabled())

    copy.register_forward_pre_hook(count)
    return copy
