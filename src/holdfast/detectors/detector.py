"""The interface of every detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from holdfast.ascent.copied import copied
from holdfast.foundation.errors import BadData, BadModel


class Judged(NamedTuple):
    """What a classifier and its detector say of N images: ``logits`` (N, K), ``score`` (N,), larger = more suspicious."""

    logits: Tensor
    score: Tensor


class Fitted(Protocol):
    """A classifier with its detector: a pure function of images and of the number of an evaluation.

    Gradients pass through both outputs, as far as the detector's ``flat`` does not say otherwise.
    """

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Judged:
        """Images (N, C, H, W) in [0, 1]; ``ids`` (N,) int64 as for `holdfast.ascent.randomised.Randomised`."""
        ...

    def at(self, *evaluation: int) -> Fitted:
        """The same with the draws of another evaluation; itself where nothing is drawn."""
        ...


class Detector(Protocol):
    """A score of how much an image looks attacked; a frozen dataclass: its fields are its configuration.

    ``flat``: why no gradient passes through the score; empty where one does.
    """

    flat: ClassVar[str]

    def fit(self, module: nn.Module, x: Tensor, y: Tensor) -> Fitted:
        """The detector of a copy of ``module``, which is never changed.

        Args:
            module: images in [0, 1] -> logits.
            x: clean images that the module was trained on, (M, C, H, W) floats in [0, 1], on the module's device. Neither
                the threshold may be set on them nor a figure be measured.
            y: their labels, (M,) int64.

        Raises:
            BadModel: the detector does not apply to this model.
            BadData: images or labels that it cannot learn from.
        """
        ...


@dataclass(frozen=True)
class Fixed:
    """A `Fitted` that draws nothing: ``judge`` alone says what it says."""

    judge: Callable[[Tensor], Judged]

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Judged:
        return self.judge(x)

    def at(self, *evaluation: int) -> Fixed:
        return self


def prepared(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
    """The copy of ``module`` that a detector keeps, and how many outputs it has for the images that it is fitted on.

    Raises:
        BadData: images and labels that do not belong together, or none.
        BadModel: the module cannot be copied, or returns no logits of the labels' classes.
    """
    if x.dim() != 4 or not x.is_floating_point() or y.shape != x.shape[:1] or y.is_floating_point() or not len(y):
        raise BadData(
            f"the clean images are {tuple(x.shape)} {x.dtype}, their labels {tuple(y.shape)} {y.dtype}",
            hint="give (M, C, H, W) floats in [0, 1] and (M,) integers, at least one of each",
        )
    core = copied(module)
    with torch.no_grad():
        shape = tuple(core(x[:1]).shape)
    if len(shape) != 2 or shape[1] <= max(1, int(y.max())):
        raise BadModel(
            f"the model returns {shape} for one image, and a label is {int(y.max())}",
            hint="it must return logits (N, K) with K larger than every label, and at least 2",
        )
    return core, shape[1]
