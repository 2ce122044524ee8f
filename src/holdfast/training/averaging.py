"""Averages of the weights along a training, which are then what is judged and kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.training.recipe import Recipe

_RECOMPUTED = 20
"""Batches from which the batch norms of a plain mean get their statistics."""


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, recipe: Recipe, done: int, total: int) -> None:
    """Takes the weights after step ``done`` (from 0) of ``total`` into the average, in place.

    ``exponential``: a moving average that begins as a plain mean, the decay of step t being at most (1 + t) / (10 + t)
    (Rebuffi et al., "Data augmentation can improve robustness", NeurIPS 2021). ``uniform``: the plain mean of all steps
    from ``average_from`` on (Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI
    2018; there of epochs). Before ``average_from`` the average is the net itself. Counters and running statistics are
    always those of the net.
    """
    past = done - int(recipe.average_from * total)
    if past < 0:
        decay = 0.0
    elif recipe.averaging == "uniform":
        decay = past / (past + 1)
    else:
        decay = min(recipe.average, (1 + past) / (10 + past))
    followed = dict(average.named_parameters())
    state = average.state_dict()
    for name, value in net.state_dict().items():
        if name in followed:
            followed[name].lerp_(value, 1 - decay)
        else:
            state[name].copy_(value)


def with_statistics(average: nn.Module, feed: Callable[[nn.Module, int], None], count: int) -> nn.Module:
    """A copy of the average whose batch norms have statistics of its own: the mean over a few batches.

    Running statistics that belong to other weights spoil a plain mean (Izmailov et al. 2018, section 3.2).

    Args:
        average: the mean of the weights.
        feed: passes batch ``number`` of the training through a net in train mode.
        count: batches there are.
    """
    found = copy.deepcopy(average)
    norms = [each for each in found.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not norms:
        return found
    momenta = [each.momentum for each in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    found.train()
    with torch.no_grad():
        for number in range(min(_RECOMPUTED, count)):
            feed(found, number)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return found
