"""The interface of every training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.threats.threat import Threat


class Examples(NamedTuple):
    """A batch: images ``x`` (N, C, H, W) floats in [0, 1], labels ``y`` (N,) int64, and a key (N,) for its randomness.

    ``delta``: the perturbation that the step before left, (N, C, H, W), for objectives that are `Carrying`; else None.
    ``of``: the larger batch of which this is a part; None: it is a whole one.
    """

    x: Tensor
    y: Tensor
    key: Tensor
    delta: Tensor | None = None
    of: Part | None = None

    def part(self, rows: slice) -> Examples:
        """Those rows of a whole batch, which know what they are a part of."""
        delta = None if self.delta is None else self.delta[rows]
        return Examples(self.x[rows], self.y[rows], self.key[rows], delta, Part(rows, self))


class Part(NamedTuple):
    """Which ``rows`` of which ``whole`` batch."""

    rows: slice
    whole: Examples


class Terms(NamedTuple):
    """The ``loss`` to minimise, a scalar with a gradient, and its ``parts`` by name, detached, for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


class Objective(ABC):
    """What training minimises on a batch; a frozen dataclass whose fields are its configuration.

    It has two halves, so that the search, which is most of the cost, can run on a cheaper copy of the net
    (`holdfast.training.attack_copy`), and so that a wrapper can take the loss at several weights for one search (AWP).

    ``operations`` declares what it does to images, by the names of `holdfast.audit.corrupted.overlap.FAMILIES`: an audit
    of corruptions has to know what a model was trained on.
    """

    operations: ClassVar[tuple[str, ...]]
    outputs: ClassVar[int] = 0
    """Outputs that the net needs besides the classes."""
    divisible: ClassVar[bool] = True
    """Whether the loss of a batch is the mean of the losses of its parts, each by its images, batch norm aside; what is
    drawn for the batch as a whole is then drawn from `Examples.of`."""

    @abstractmethod
    def prepare(self, model: Classifier, batch: Examples, threat: Threat) -> Any:
        """What the net is to be trained on: the searches, the mixtures, the labels. No gradient leads to it.

        Args:
            model: the net in evaluation mode with frozen parameters, or a copy with the same answers.
            batch: the images as they come.
            threat: the set that an attack may use.
        """

    @abstractmethod
    def terms(self, model: nn.Module, prepared: Any) -> Terms:
        """The loss of the net, in train mode, on what was prepared."""

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        """The loss on a batch. ``model`` comes in train mode and is left in it."""
        with frozen(model):
            prepared = self.prepare(model, batch, threat)
        return self.terms(model, prepared)


class Carrying(Objective):
    """An objective that makes the next step's perturbation from this step's own backward pass.

    What it prepares has a leaf ``x``, (N, C, H, W), that requires its gradient.
    """

    @abstractmethod
    def carried(self, prepared: Any, threat: Threat) -> Tensor:
        """The perturbation (N, C, H, W) that the next step starts from, `Examples.delta`.

        Args:
            prepared: what the terms were taken of, after their backward pass: ``prepared.x.grad`` holds its gradient.
            threat: the set that it was prepared for.
        """
