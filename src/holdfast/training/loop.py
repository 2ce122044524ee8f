"""The training loop: data resident on the device, draws by key, nothing global touched.

What a step does is a pure function of the weights before it, the recipe and the number of the step, so that a run which is
stored and loaded goes on to the same bits.
"""

from __future__ import annotations

import copy
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
from holdfast.training.schedule import rate


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
    Where the recipe averages, the net ends with the average.

    Raises:
        BadModel: the loss became infinite or NaN; the message names the epoch.
    """
    trainer, began, history = Trainer(net, source, recipe), time.monotonic(), []
    while not trainer.finished:
        losses = [trainer.step() for _ in range(trainer.per_epoch)]
        epoch = Epoch(trainer.epoch, recipe.epochs, float(torch.stack(losses).mean()), time.monotonic() - began)
        trainer.check(epoch.loss)
        history.append(epoch)
        if watch:
            watch(epoch)
    net.load_state_dict(trainer.judged.state_dict())
    net.eval()
    return history


class Trainer:
    """A training run at some step.

    ``net``: the weights that are trained; ``average``: their moving average, None where the recipe has none; ``done``: steps
    taken, of ``total``, ``per_epoch`` of them an epoch.
    """

    def __init__(self, net: nn.Module, source: Source, recipe: Recipe) -> None:
        parameter = next(net.parameters())
        self.net, self.recipe = net, recipe
        self._x, self._y = tensors(source, source.ids, dtype=parameter.dtype, device=parameter.device)
        self._root = keys.fold(keys.root(recipe.seed, device=self._x.device), keys.number("training"))
        self.average = copy.deepcopy(net).requires_grad_(False) if recipe.average else None
        self.optimiser = _optimiser(net, recipe)
        self.per_epoch = math.ceil(len(self._x) / recipe.batch_size)
        self.total, self.done = recipe.epochs * self.per_epoch, 0
        self._prepared: tuple[int, Tensor, Tensor, tuple[Tensor, ...]] | None = None

    @property
    def epoch(self) -> int:
        """The number, from 1, of the epoch of the last step."""
        return max(1, -(-self.done // self.per_epoch))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.total

    @property
    def judged(self) -> nn.Module:
        """What stands for the outcome: the average, or the net itself."""
        return self.average or self.net

    def step(self) -> Tensor:
        """One step; returns its loss, detached, which nobody has looked at yet."""
        recipe = self.recipe
        key, images, parts = self._of_epoch(self.done // self.per_epoch + 1)
        chosen = parts[self.done % self.per_epoch]
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.lr * rate(recipe.schedule, self.done / self.total)
        grown = min(1.0, (self.done + 1) / max(1.0, recipe.warm_up * self.total))
        threat = recipe.threat.resized(recipe.threat.eps * grown)
        self.net.train()
        batch = Examples(images[chosen], self._y[chosen], keys.fold(key[chosen], 0))
        terms = recipe.objective(self.net, batch, threat)
        self.optimiser.zero_grad(set_to_none=True)
        terms.loss.backward()
        self.optimiser.step()
        if self.average is not None:
            _follow(self.average, self.net, min(recipe.average, (1 + self.done) / (10 + self.done)))
        self.done += 1
        return terms.loss.detach()

    def check(self, loss: float) -> None:
        """Refuses to go on after a loss that is no number. Raises BadModel."""
        if not math.isfinite(loss):
            raise BadModel(f"the loss is {loss} in epoch {self.epoch}", hint="train with a smaller learning rate (lr)")

    def state(self) -> dict[str, Tensor]:
        """Everything that the steps to come depend on, besides the recipe, the data and `done`: tensors by name."""
        found = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for number, held in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{name}": value for name, value in held.items() if value is not None}
        return {name: value.detach().clone().contiguous() for name, value in found.items()}

    def load(self, state: dict[str, Tensor], done: int) -> None:
        """Goes on from what `state` gave after ``done`` steps."""
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "average": {}, "optimiser": {}}
        for name, value in state.items():
            room, _, rest = name.partition(".")
            parts[room][rest] = value
        self.net.load_state_dict(parts["net"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        held: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, _, rest = name.partition(".")
            held.setdefault(int(number), {})[rest] = value
        self.optimiser.load_state_dict({"state": held, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.done, self._prepared = done, None

    def _of_epoch(self, number: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The keys of an epoch, its images, and its batches as indices."""
        if self._prepared is None or self._prepared[0] != number:
            key = keys.fold(keys.fold(self._root, number), torch.arange(len(self._x), device=self._x.device))
            images = _flipped(_shifted(self._x, self.recipe.shift, keys.fold(key, 1)), self.recipe, keys.fold(key, 2))
            self._prepared = number, key, images, key.sort().indices.split(self.recipe.batch_size)
        return self._prepared[1:]


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.lr)


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """One step of the moving average; counters and running statistics are those of the net."""
    followed = dict(average.named_parameters())
    for name, value in net.state_dict().items():
        if name in followed:
            followed[name].lerp_(value, 1 - decay)
        else:
            average.state_dict()[name].copy_(value)


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


def _flipped(x: Tensor, recipe: Recipe, key: Tensor) -> Tensor:
    """Half of the images mirrored, where the recipe asks for it."""
    if not recipe.flip:
        return x
    return torch.where(keys.integers(key, (1, 1, 1), 2).bool(), x.flip(3), x)
