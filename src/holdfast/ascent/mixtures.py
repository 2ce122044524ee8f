"""A classifier's view of an image mixed with others."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.ascent.meter import Classifier
from holdfast.imaging.pool import Pool

CACHED = 48 * 3072  # values: as many CIFAR images as a core's cache holds with what a small net makes of them
AT_ONCE = 4096 * 3072  # values, elsewhere: enough to keep a device busy


def mixtures(model: Classifier, x: Tensor, pool: Pool, index: Tensor, lam: float) -> Tensor:
    """The log-probabilities of ``lam * x + (1 - lam) * partner`` for every partner, (B, N, L).

    Args:
        model: images -> logits (., L).
        x: (B, C, H, W) floats in [0, 1]. The gradient that passes to them is ``lam`` times the mixture's.
        pool: on the device of ``x``.
        index: the partners' places in the pool, (B, N) int64.
        lam: the image's share, in [0, 1].

    All partners are evaluated in stacks; the size of a stack changes nothing but the rounding.
    """
    count, num = index.shape
    size = _stack(x)
    tall, wide = max(1, size // num), min(num, size)
    rows = []
    for top in range(0, max(1, count), tall):
        part, places = x[top : top + tall], index[top : top + tall]
        stacks = []
        for left in range(0, num, wide):
            partners = pool.take(places[:, left : left + wide], x.dtype).mul_(1 - lam)
            mixed = torch.add(partners, part[:, None], alpha=lam)
            stacks.append(model(mixed.flatten(0, 1)).unflatten(0, mixed.shape[:2]))
        rows.append(torch.cat(stacks, 1))
    return torch.cat(rows).log_softmax(2)


def outputs(model: Classifier, pool: Pool, dtype: torch.dtype) -> Tensor:
    """The probabilities of the pool's own images, (M, L), without a gradient."""
    places = torch.arange(len(pool.images), device=pool.images.device)
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([model(pool.take(part, dtype)).softmax(1) for part in places.split(_stack(pool.images))])


def _stack(images: Tensor) -> int:
    """How many images of that size are evaluated at once."""
    values = CACHED if images.device.type == "cpu" else AT_ONCE
    return max(4, values // max(1, images.shape[1:].numel()))
