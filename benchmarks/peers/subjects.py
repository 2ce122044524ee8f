"""What is attacked: small nets on scikit-learn's digits, and the models of a reference folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.state import Rows
from holdfast.attacks.pgd import PGD
from holdfast.data.digits import Digits
from holdfast.nets.small_cnn import SmallCNN
from holdfast.threats.linf import Linf

RADII = {"mnist": 0.3, "cifar": 2 / 255}
"""The radius in Linf of a reference model by the first part of its name."""
EUCLIDEAN = {"mnist": 1.5, "cifar": 0.5}
"""The same in L2."""


@dataclass(frozen=True)
class Subject:
    """What is attacked: ``net`` in eval mode without parameter gradients, images (N, C, H, W) in [0, 1], labels.

    ``eps`` is the radius in Linf, ``euclidean`` that in L2; ``again``: another subject has the same net and images, so that
    attacks that look for the smallest distance have nothing to add here.
    """

    name: str
    net: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    euclidean: float = 0.5
    again: bool = False


def digits(n: int) -> list[Subject]:
    """Two small nets on scikit-learn's digits: one trained on clean images, one on PGD's.

    The first at two radii: at the larger one every image falls, most of them early.
    """
    train, test = (_tensors(Digits.open(split=split)) for split in ("train", "test"))
    x, y = test[0][:n], test[1][:n]
    plain, robust = _trained(*train, eps=0.0, epochs=12), _trained(*train, eps=0.1, epochs=20)
    return [
        Subject("undefended, eps 0.2", plain, x, y, 0.2, 1.0, again=True),
        Subject("undefended, eps 0.1", plain, x, y, 0.1),
        Subject("robust, eps 0.1", robust, x, y, 0.1),
    ]


def _tensors(source: Any) -> tuple[Tensor, Tensor]:
    batch = source.take(source.ids)
    return torch.from_numpy(batch.images).float() / 255, torch.from_numpy(batch.labels).long()


def _trained(x: Tensor, y: Tensor, *, eps: float, epochs: int) -> nn.Module:
    """A small CNN; with a radius, on the points of PGD-7, the radius growing over the first third of the epochs."""
    torch.manual_seed(0)
    net = SmallCNN()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        key = keys.fold(keys.fold(keys.root(0), epoch), torch.arange(len(x)))
        for chosen in key.sort().indices.split(64):
            images, labels = x[chosen], y[chosen]
            if eps:
                threat = Linf(eps * min(1.0, 3 * (epoch + 1) / epochs))
                rows = Rows(images, labels, torch.full_like(labels, -1), key[chosen], threat)
                inner, net = PGD(7), net.requires_grad_(False)
                state = inner.begin(net, rows)
                while not bool(state.done.all()):
                    state = inner.step(net, state)
                images, net = state.x.detach(), net.requires_grad_(True)
            optimiser.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def references(folder: Path, n: int) -> Iterator[Subject]:
    """The models of a folder: NAME.weights.safetensors (with mean and std) and NAME.images.safetensors."""
    for weights in sorted(folder.glob("*.weights.safetensors")):
        name = weights.name.removesuffix(".weights.safetensors")
        data = load_file(folder / f"{name}.images.safetensors")
        images, labels = data["images"][:n].float() / 255, data["labels"][:n].long()
        with safe_open(weights, "pt") as file:
            normalisation = file.metadata() or {}
        net, kind = _reference_net(load_file(weights), normalisation), name.split("-")[0]
        yield Subject(name, net, images, labels, RADII[kind], EUCLIDEAN[kind])


def _reference_net(weights: dict[str, Tensor], normalisation: dict[str, str]) -> nn.Module:
    mean, std = ([float(v) for v in normalisation[k].strip("[]()").split(",")] for k in ("mean", "std"))
    channels, flat = weights["0.weight"].shape[1], weights["5.weight"].shape[1]
    net = SmallCNN(channels=channels, size=4 * round((flat / 32) ** 0.5), mean=mean, std=std)
    # The same layers in the same order: two convolutions, two linear ones.
    layers = [each for each in net.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    for layer, place in zip(layers, (0, 2, 5, 7)):
        layer.load_state_dict({"weight": weights[f"{place}.weight"], "bias": weights[f"{place}.bias"]})
    return net.eval().requires_grad_(False)
