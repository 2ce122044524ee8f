"""PGD training as three programs do it: ours, the loop of the tutorials, and MAIR's."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from holdfast.data.arrays import from_pair
from holdfast.training.loop import Trainer
from holdfast.training.recipe import Recipe

MISSING = ("torchvision", "requests", "matplotlib", "pandas", "tqdm")
"""What importing MAIR 1.0.3 asks for and training with it does not use."""


@dataclass(frozen=True)
class Setting:
    """PGD training: ``eps`` and ``alpha`` in pixels' own units; ``shift`` pixels at random and ``flip``: augmentation."""

    eps: float
    alpha: float
    steps: int
    batch: int
    lr: float
    shift: int = 0
    flip: bool = False


Epochs = Iterator[nn.Module]
"""One item an epoch: the net as it would be used then."""
Train = Callable[[nn.Module, Tensor, Tensor, Setting], Epochs]
"""(net, images uint8 (N,C,H,W), labels (N,), setting) -> epochs without an end, or as many as a recipe has."""


def ours(make: Callable[[Setting], Recipe]) -> Train:
    def train(net: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Epochs:
        trainer = Trainer(net, from_pair(images.numpy(), labels.numpy()), make(setting))
        while not trainer.finished:
            for _ in range(trainer.per_epoch):
                trainer.step()
            yield trainer.judged()

    return train


def textbook(optimiser: Callable[[Any], torch.optim.Optimizer], *, growing: int = 0) -> Train:
    """The loop as tutorials have it: batches from a loader, the attack in train mode and through ``loss.backward()``.

    ``growing``: over how many steps the radius grows from 0, which no tutorial does and small nets at large radii need.
    """

    def train(net: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Epochs:
        chosen, step, criterion = optimiser(net.parameters()), 0, nn.CrossEntropyLoss()
        while True:
            net.train()
            running = 0.0
            for x, y in _loader(images, labels, setting):
                step += 1
                share = min(1.0, step / growing) if growing else 1.0
                eps, alpha = share * setting.eps, share * setting.alpha
                delta = torch.empty_like(x).uniform_(-eps, eps)
                for _ in range(setting.steps):
                    delta.requires_grad_(True)
                    criterion(net((x + delta).clamp(0, 1)), y).backward()
                    assert delta.grad is not None
                    delta = (delta.detach() + alpha * delta.grad.sign()).clamp(-eps, eps)
                chosen.zero_grad()
                loss = criterion(net((x + delta).clamp(0, 1)), y)
                loss.backward()
                chosen.step()
                running += loss.item()
            yield net

    return train


def mair(package: ModuleType) -> Train:
    """MAIR's own ``AT.fit`` with everything off that records, saves or judges."""

    def train(net: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Epochs:
        trainer = package.AT(package.RobModel(net, 10), setting.eps, setting.alpha, setting.steps)
        trainer.setup(optimizer=f"SGD(lr={setting.lr}, momentum=0.9)")
        while True:
            trainer.fit(_loader(images, labels, setting), n_epochs=1, record_type=None, save_type=None)
            yield net

    return train


def imported(folder: Path) -> ModuleType:
    """MAIR from a checkout of its repository, with empty stand-ins for what is `MISSING` here."""
    sys.meta_path.append(_StandIns())
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("mair")
    finally:
        sys.path.remove(str(folder))


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last, and so only for what nobody else finds: modules in which every name is an empty class."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self, is_package=True) if name.split(".")[0] in MISSING else None

    def exec_module(self, module: ModuleType) -> None:
        def invented(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__dict__["__getattr__"] = invented


def _loader(images: Tensor, labels: Tensor, setting: Setting) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(_Augmented(images, labels, setting), batch_size=setting.batch, shuffle=True)


class _Augmented(Dataset[tuple[Tensor, Tensor]]):
    """An image at a time, moved and mirrored at random, as torchvision's transforms do it."""

    def __init__(self, images: Tensor, labels: Tensor, setting: Setting) -> None:
        self.images, self.labels, self.setting = images, labels, setting

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, shift = self.images[index].float() / 255, self.setting.shift
        if shift:
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            height, width = image.shape[1:]
            image = F.pad(image, (shift,) * 4)[:, top : top + height, left : left + width]
        if self.setting.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, self.labels[index]
