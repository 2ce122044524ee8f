"""One forward and one input gradient of every row: the only place where a search differentiates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import State
from holdfast.foundation.errors import BadModel
from holdfast.losses import Loss


class Evaluation(NamedTuple):
    """``logits`` (R, K), the loss ``value`` (R,), and its gradient ``grad`` (R, C, H, W) in the images."""

    logits: Tensor
    value: Tensor
    grad: Tensor


def evaluate(model: Classifier, loss: Loss, state: State) -> Evaluation:
    """Logits, loss and input gradient at ``state.x``.

    Raises:
        BadModel: the logits do not depend on the images through anything that can be differentiated.
    """
    with torch.enable_grad():
        x = state.x.detach().requires_grad_()
        logits = model(x)
        if not logits.requires_grad:
            raise BadModel(
                "the model's output has no gradient with respect to its input",
                hint="a gradient attack cannot work on it: check for .detach(), torch.no_grad() or NumPy in its forward",
            )
        value = loss(logits, state.rows.y, state.rows.target)
        (grad,) = torch.autograd.grad(value.sum(), x)
    return Evaluation(logits.detach(), value.detach(), grad)
