"""Adversarial weight perturbation: the loss is taken where the weights are worst."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_TINY = 1e-20


@contextmanager
def perturbed(
    net: nn.Module, gradient: Callable[[Sequence[nn.Parameter]], Sequence[Tensor | None]], gamma: float
) -> Iterator[None]:
    """Within, the weights stand one step up their loss; afterwards they are what they were, to the bit.

    Every weight of more than one dimension moves by ``gamma`` times its norm along its gradient. Gradients that are taken
    within belong to the moved weights, and are applied to the old ones.

    Source: Wu, Xia and Wang, "Adversarial weight perturbation helps robust generalization" (NeurIPS 2020), equations 8 to
    10 with one step, and their advice to perturb for one and the same adversarial example.
    Departure: batch norm's running statistics do not see the pass that finds the direction (there it is a copy of the net).

    Args:
        net: in train mode; its gradients are left alone.
        gradient: that of the loss in the given weights, as they stand; None for one that plays no part.
        gamma: 0.005 for TRADES, 0.01 for adversarial training; 0: nothing is moved.
    """
    weights = [each for each in net.parameters() if each.requires_grad and each.ndim > 1]
    if not gamma or not weights:
        yield
        return
    buffers = [(each, each.clone()) for each in net.buffers()]
    grads = gradient(weights)
    kept = [each.detach().clone() for each in weights]
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
        for weight, grad in zip(weights, grads):
            if grad is not None:
                weight.add_(grad * (gamma * weight.norm() / (grad.norm() + _TINY)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept):
                weight.copy_(value)
