"""The interface of every training objective."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from holdfast.threats.threat import Threat


class Examples(NamedTuple):
    """A batch: images ``x`` (N, C, H, W) floats in [0, 1], labels ``y`` (N,) int64, and a key (N,) for its randomness."""

    x: Tensor
    y: Tensor
    key: Tensor


class Terms(NamedTuple):
    """The ``loss`` to minimise, a scalar with a gradient, and its ``parts`` by name, detached, for the log."""

    loss: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    """What training minimises on a batch; a frozen dataclass whose fields are its configuration.

    ``operations`` declares what it does to images, by the names of `holdfast.audit.corrupted.overlap.FAMILIES`: an audit
    of corruptions has to know what a model was trained on.
    """

    operations: ClassVar[tuple[str, ...]]

    def __call__(self, model: nn.Module, batch: Examples, threat: Threat) -> Terms:
        """The loss on a batch. ``model`` comes in train mode and is left in it."""
        ...
