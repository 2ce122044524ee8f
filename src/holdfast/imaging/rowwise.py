"""Operations on single images, done a few images at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CACHED = 1 << 16  # pixels


def rowwise(operation: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """``operation(x, *others)``, whose rows do not depend on one another; same result, less time and memory.

    On a CPU the temporaries of whole batches cost more than the arithmetic. All have one row per image.
    """
    if x.device.type != "cpu":
        return operation(x, *others)
    rows = max(1, _CACHED // (x.shape[-2] * x.shape[-1]))
    return torch.cat([operation(*part) for part in zip(*(tensor.split(rows) for tensor in (x, *others)))])
