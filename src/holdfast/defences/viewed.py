"""Classifiers that judge an image by views of it: what all defences have in common that change the image alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.copied import copied
from holdfast.ascent.meter import Classifier
from holdfast.ascent.mixtures import AT_ONCE, CACHED
from holdfast.defences.defence import Opening
from holdfast.foundation.errors import BadModel
from holdfast.foundation.registry import name_of

Gather = Callable[[Tensor], Tensor]
"""The logits of N views of B images, (B, N, L) -> those of the images, (B, L)."""


def mean_probability(logits: Tensor) -> Tensor:
    """The logarithm of the mean of the views' probabilities, (B, L)."""
    return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


class ViewDefence(ABC):
    """A defence that shows the model one or more views of an image, and averages the probabilities that it gives them.

    A view that draws is random in its key alone; one that does not ignores the key, and there is one of it. Fields of a
    defence stand for the properties below.
    """

    transductive: ClassVar[bool] = False

    @property
    def backward(self) -> tuple[str, ...]:
        """How gradients pass through a view, the first for the defended classifier itself, so that no opening is flat.

        ``true``: by the derivative; ``straight_through``: as if it were the identity, for views that are flat or steep
        (Athalye, Carlini and Wagner, "Obfuscated gradients", ICML 2018, section 4.1, BPDA).
        """
        return ("true",)

    @property
    def num_draws(self) -> int:
        """How many views there are."""
        return 1

    @property
    def seed(self) -> int:
        """Of all draws."""
        return 0

    @abstractmethod
    def view(self, x: Tensor, key: Tensor) -> Tensor:
        """One view of each image (R, C, H, W) in [0, 1], of its dtype, drawn by its key, (R,) int64."""

    def forwards(self) -> float:
        """Forwards for one image."""
        return self.num_draws

    def wrap(self, module: nn.Module) -> Viewed:
        return Viewed(copied(module), self, straight_through=self.backward[0] == "straight_through")

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        """The core; the defended classifier; and the same with every other backward pass that there is."""
        defended = self.wrap(module)
        others = (
            Opening(name, Viewed(defended.core, self, straight_through=name == "straight_through"))
            for name in self.backward[1:]
        )
        return Opening("core", module), Opening("defended", defended), *others


class Viewed(nn.Module):
    """A classifier under a `ViewDefence`: a `holdfast.ascent.randomised.Randomised`.

    It is a pure function. Its draws are those of evaluation 0 until `at` takes others.
    """

    def __init__(
        self,
        core: Classifier,
        defence: ViewDefence,
        *,
        straight_through: bool = False,
        gather: Gather = mean_probability,
    ) -> None:
        """``core``: the copied model; ``straight_through``: gradients pass views as if they were the image itself."""
        super().__init__()
        self.core = core
        self.defence = defence
        self.straight_through = straight_through
        self.gather = gather
        self.evaluation: tuple[int, ...] = (0,)
        self.eval()

    def at(self, *evaluation: int) -> Viewed:
        made = Viewed(self.core, self.defence, straight_through=self.straight_through, gather=self.gather)
        made.evaluation = evaluation
        return made

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        num = self.defence.num_draws
        key = keys.fold(self._key(x, ids)[:, None], torch.arange(num, device=x.device))
        size = at_once(x)
        tall, wide = max(1, size // num), min(num, size)
        rows = []
        for top in range(0, max(1, len(x)), tall):
            part, own = x[top : top + tall], key[top : top + tall]
            rows.append(torch.cat([self._seen(part, few) for few in own.split(wide, 1)], 1))
        return self.gather(torch.cat(rows))

    def _key(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """What the images' draws are made from, (B,) int64."""
        key = keys.fold(keys.root(self.defence.seed, device=x.device), keys.number(name_of(self.defence)))
        for number in self.evaluation:
            key = keys.fold(key, number)
        return key.expand(len(x)) if ids is None else keys.fold(key, ids.to(x.device))

    def _seen(self, x: Tensor, key: Tensor) -> Tensor:
        """The logits of a view of each image for each of its keys (B, n): (B, n, L)."""
        copies = x.repeat_interleave(key.shape[1], 0)
        views = self.defence.view(copies, key.flatten())
        if self.straight_through:
            if views.shape != copies.shape:
                raise BadModel(
                    f"views are {tuple(views.shape)} of images {tuple(copies.shape)}, and gradients cannot pass straight",
                    hint="use the opening with the derivative itself",
                )
            views = views.detach() + (copies - copies.detach())  # exactly 0 is added
        return self.core(views).unflatten(0, key.shape)

    def extra_repr(self) -> str:
        return f"{self.defence}, evaluation={self.evaluation}"


def at_once(x: Tensor) -> int:
    """How many images of the size of ``x`` are evaluated together."""
    values = CACHED if x.device.type == "cpu" else AT_ONCE
    return max(4, values // max(1, x.shape[1:].numel()))
