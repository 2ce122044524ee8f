"""What a training will cost, measured on its first batch before it begins."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Meter
from holdfast.objectives.objective import Carrying, Examples
from holdfast.training.loop import Trainer

_TIMED = 2
"""Batches that are timed, after one that is not."""

_ALIGNED = 10
"""What GradAlign costs: two gradients, each differentiated again."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will cost.

    Args:
        steps: in all.
        passes: of an image in a step, in forwards; a backward pass to the images is one, to the weights too it is two.
        seconds: of all steps; what is looked at on the way (held-out images, watchdog) comes on top.
        parameters: of the net.
        bytes: at the peak of a step: data, weights, gradients, averages, the optimiser's state and what the backward pass
            keeps.
    """

    steps: int
    passes: float
    seconds: float
    parameters: int
    bytes: int


def planned(trainer: Trainer) -> TrainingPlan:
    """Measures a few batches on a copy of the net, or on a divided net itself; the trainer stays as it is."""
    scratch = _scratch(trainer)
    buffers = [each.clone() for each in scratch.buffers()]
    passes = _passes(trainer, scratch)
    began = time.perf_counter()
    for number in range(1, 1 + _TIMED):
        _one(trainer, scratch, trainer.parts(number % trainer.batches.per_epoch))
    seconds = (time.perf_counter() - began) / _TIMED * (trainer.total - trainer.done)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _one(trainer, scratch, trainer.parts(0)[:1])
    for buffer, before in zip(scratch.buffers(), buffers):
        buffer.copy_(before)
    scratch.zero_grad(set_to_none=True)
    weights = sum(each.numel() * each.element_size() for each in scratch.parameters())
    copies = 3 + (trainer.average is not None) + (2 if trainer.recipe.optimiser == "adamw" else 1)
    return TrainingPlan(
        steps=trainer.total,
        passes=passes,
        seconds=seconds,
        parameters=sum(each.numel() for each in scratch.parameters()),
        bytes=trainer.batches.bytes
        + (copies * weights // trainer.team.world + weights if trainer.sharded else copies * weights)
        + kept,
    )


def passes(trainer: Trainer) -> float:
    """What a step costs an image, in forwards, counted on the first batch."""
    return _passes(trainer, _scratch(trainer))


def _scratch(trainer: Trainer) -> nn.Module:
    return (trainer.net if trainer.sharded else copy.deepcopy(trainer.net)).train()


def _passes(trainer: Trainer, net: nn.Module) -> float:
    _, batch = trainer.parts(0)[0]
    searched = Meter(trainer.searched())
    trained = 0

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal trained
        trained += len(given[0])

    recipe = trainer.recipe
    with trainer.gathered(), frozen(searched.classifier):
        prepared = recipe.objective.prepare(searched, batch, recipe.threat)
    hook = net.register_forward_pre_hook(count)
    try:
        with torch.no_grad():
            recipe.objective.terms(net, prepared)
    finally:
        hook.remove()
    trained *= 3 * (2 if recipe.awp else 1)
    return (searched.forwards + searched.backwards + trained) / len(batch.x) + (_ALIGNED if recipe.align else 0)


def _one(trainer: Trainer, net: nn.Module, parts: list[tuple[float, Examples]]) -> None:
    """A step without the optimiser and the other processes, whose share is small."""
    recipe, searched = trainer.recipe, trainer.searched()
    for _, part in parts:
        with trainer.gathered(), frozen(searched):
            prepared = recipe.objective.prepare(searched, part, recipe.threat)
        recipe.objective.terms(net, prepared).loss.backward()
        if isinstance(recipe.objective, Carrying):
            recipe.objective.carried(prepared, recipe.threat)
