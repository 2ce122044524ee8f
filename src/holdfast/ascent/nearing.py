"""What the searches for the nearest misclassified point share."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.state import State
from holdfast.threats.l2 import L2
from holdfast.threats.threat import rows as per_row

_EUCLIDEAN = L2(1.0)


def waning(count: Tensor, steps: int, first: float, last: float, like: Tensor) -> Tensor:
    """What falls along half a cosine from ``first`` to ``last`` over ``steps``, after ``count`` (R,) of them; (R,)."""
    # From a table: the bits of torch's cosine depend on a number's place in the tensor.
    return torch.tensor(_half_cosine(steps, first, last), dtype=like.dtype, device=like.device)[count]


@functools.cache
def _half_cosine(steps: int, first: float, last: float) -> tuple[float, ...]:
    return tuple(last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps + 1))


def heading(state: State, grad: Tensor) -> Tensor:
    """The gradient at Euclidean length 1; where it vanishes, a random direction of that length."""
    lost = grad.flatten(1).abs().amax(1) == 0
    if lost.any():
        draw = keys.normal(keys.fold(state.rows.key, state.count), grad.shape[1:], dtype=grad.dtype)
        grad = torch.where(per_row(lost, grad), draw, grad)
    return _EUCLIDEAN.steepest(grad)
