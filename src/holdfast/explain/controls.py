"""What a model is compared with: the same net untrained, and a twin that is trained on the spot."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from holdfast.ascent.frozen import rng_kept
from holdfast.data.source import Source
from holdfast.explain.case import Net
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models.load import load
from holdfast.models.model import Model
from holdfast.objectives.standard import Standard
from holdfast.threats.threat import Threat
from holdfast.training.checkpoint import trained
from holdfast.training.recipe import Recipe

SEEN = 100_000
"""Images that a twin sees in its training, about: two epochs of MNIST, of the digits twenty."""


def untrained(model: Model, *, seed: int = 0) -> Net | None:
    """The control: the same layers with fresh weights, each as its class draws them. None where a layer cannot do that.

    The model itself is not touched, nor is the global RNG.
    """
    if not isinstance(model.module, nn.Module):
        return None
    module = copy.deepcopy(model.module)
    fresh: set[int] = set()
    with rng_kept(model.device):
        torch.default_generator.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
                fresh |= {id(each) for each in layer.parameters(recurse=False)}
    if any(id(each) not in fresh for each in module.parameters()):
        return None
    return Net("untrained", load(module.eval(), shape=model.shape, device=model.device), "untrained")


def controlled(nets: Sequence[Net], *, seed: int = 0) -> tuple[Net, ...]:
    """The nets, and behind them the untrained control of the first, where its layers allow one."""
    control = untrained(nets[0].model, seed=seed)
    return (*nets, *([control] if control else []))


def standard_twin(spec: str, known: Source, threat: Threat, out: Path, *, seed: int = 0) -> tuple[Path, str]:
    """The weights of the same registered net, trained on clean images alone, in ``out``; and what was done.

    Raises:
        BadValue: the model is no registered net.
        BadModel: the training failed.
        StorageError: the file cannot be written.
    """
    kind, _, name = spec.partition(":")
    if kind != "net":
        raise BadValue(
            f"a twin of {spec} cannot be built: only registered nets can",
            hint="give --against WEIGHTS of a net of your own",
        )
    if not len(known):
        raise BadModel("there are no images to train a twin on", hint="give --train with labelled images")
    epochs = min(20, max(2, round(SEEN / len(known))))
    recipe = Recipe(Standard(), threat, epochs=epochs, lr=3e-3, seed=seed)
    path = out / "twin.safetensors"
    return path, trained(name, known, recipe, path)
