"""The training loop: data resident on the device, draws by key, nothing global touched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.objectives.objective import Examples
from holdfast.training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: its number from 1, all epochs, the mean loss, and the seconds since training began."""

    number: int
    epochs: int
    loss: float
    seconds: float


def fit(net: nn.Module, source: Source, recipe: Recipe, *, watch: Callable[[Epoch], None] | None = None) -> list[Epoch]:
    """Trains ``net`` in place and leaves it in eval mode. The source must fit in memory.

    The same net, source and recipe give the same weights on the same machine; the global random generators are not used.

    Raises:
        BadModel: the loss became infinite or NaN; the message names the epoch.
    """
    parameter = next(net.parameters())
    x, y = tensors(source, source.ids, dtype=parameter.dtype, device=parameter.device)
    root = keys.fold(keys.root(recipe.seed, device=x.device), keys.number("training"))
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(x) / recipe.batch_size)
    total, taken, began, history = recipe.epochs * per_epoch, 0, time.monotonic(), []
    net.train()
    for number in range(1, recipe.epochs + 1):
        key = keys.fold(keys.fold(root, number), torch.arange(len(x), device=x.device))
        order = key.sort().indices
        images = _shifted(x, recipe.shift, keys.fold(key, 1))
        losses = []
        for chosen in order.split(recipe.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * (1 + math.cos(math.pi * taken / total)) / 2
            grown = min(1.0, (taken + 1) / max(1.0, recipe.warm_up * total))
            threat = recipe.threat.resized(recipe.threat.eps * grown)
            terms = recipe.objective(net, Examples(images[chosen], y[chosen], keys.fold(key[chosen], 0)), threat)
            optimiser.zero_grad(set_to_none=True)
            terms.loss.backward()
            optimiser.step()
            losses.append(terms.loss.detach())
            taken += 1
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise BadModel(f"the loss is {loss} in epoch {number}", hint="train with a smaller learning rate (lr)")
        history.append(Epoch(number, recipe.epochs, loss, time.monotonic() - began))
        if watch:
            watch(history[-1])
    net.eval()
    return history


def _shifted(x: Tensor, shift: int, key: Tensor) -> Tensor:
    """Images moved by up to ``shift`` pixels in each direction, the border repeated."""
    if not shift:
        return x
    height, width = x.shape[2:]
    padded = F.pad(x, (shift,) * 4, mode="replicate")
    down, right = keys.integers(key, (2,), 2 * shift + 1).unbind(1)
    i = (torch.arange(height, device=x.device) + down[:, None])[:, None, :, None]
    j = (torch.arange(width, device=x.device) + right[:, None])[:, None, None, :]
    n, c = (torch.arange(size, device=x.device) for size in x.shape[:2])
    return padded[n[:, None, None, None], c[None, :, None, None], i, j]
