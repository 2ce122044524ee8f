"""What the searches for the nearest misclassified point share."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.state import State
from holdfast.threats.threat import rows as per_row


def waning(count: Tensor, steps: int, first: float, last: float, like: Tensor) -> Tensor:
    """What falls along half a cosine from ``first`` to ``last`` over ``steps``, after ``count`` (R,) of them; (R,)."""
    # From a table: the bits of torch's cosine depend on a number's place in the tensor.
    return torch.tensor(_half_cosine(steps, first, last), dtype=like.dtype, device=like.device)[count]


@functools.cache
def _half_cosine(steps: int, first: float, last: float) -> tuple[float, ...]:
    return tuple(last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps + 1))


def heading(state: State, grad: Tensor) -> Tensor:
    """The gradient at Euclidean length 1; where it vanishes, a random direction of that length."""
    largest = grad.flatten(1).abs().amax(1)
    lost = largest == 0
    if lost.any():
        draw = keys.normal(keys.fold(state.rows.key, state.count), grad.shape[1:], dtype=grad.dtype)
        grad = torch.where(per_row(lost, grad), draw, grad)
        largest = grad.flatten(1).abs().amax(1)
    # Scaled by the largest entry first: the squares of gradients around 1e-30 would vanish in float32.
    scaled = grad / per_row(largest, grad)
    return scaled / per_row(scaled.flatten(1).norm(dim=1), grad)
