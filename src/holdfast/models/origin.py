"""What every place where users have classifiers becomes: a module, with what the place itself says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import nn

from holdfast.foundation import registry
from holdfast.models.normalisation import Moments


@dataclass(frozen=True)
class Asked:
    """What a user asks of an origin besides the name.

    Args:
        options: keyword arguments for what is built.
        pretrained: take the weights that the origin publishes.
        trust_code: code that comes with the model may run.
        download: what is not on this machine may be fetched.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    trust_code: bool = False
    download: bool = False


@dataclass(frozen=True)
class Found:
    """A classifier as its origin hands it over.

    Args:
        module: images, normalised where ``moments`` says so -> logits; new, and nobody else's.
        name: what reports call it.
        shape: (C,H,W) of one image by the origin's own configuration; None where it does not say.
        moments: the normalisation that its configuration asks for; None where it does not say.
        class_names: one per class, where the origin knows them.
        differentiable: whether logits have a gradient in the images.
    """

    module: nn.Module
    name: str
    shape: tuple[int, int, int] | None = None
    moments: Moments | None = None
    class_names: tuple[str, ...] = ()
    differentiable: bool = True


class Origin(Protocol):
    """What a class marked ``@register`` in `holdfast.models.origins` offers.

    ``written`` says how a user names a model there; ``weights`` whether ``--weights`` may name a file for it, or it brings
    its own; ``publishes`` whether ``--weights`` may be ``pretrained``.
    """

    written: ClassVar[str]
    weights: ClassVar[bool]
    publishes: ClassVar[bool]

    @staticmethod
    def recognises(given: str) -> bool:
        """Whether this text names a model of this origin; opens nothing."""
        ...

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        """The classifier. Raises BadFile, BadModel, BadValue or UnknownName, in the user's words."""
        ...


def origin_of(given: str) -> type[Origin] | None:
    """The origin that this text names; None where it names none."""
    found = (registry.load("model", name) for name in registry.names("model"))
    return next((one for one in found if one.recognises(given)), None)


def written() -> str:
    """All ways to name a model, for errors."""
    origins = ", ".join(registry.load("model", name).written for name in registry.names("model"))
    return f"net:NAME, your_module:factory, {origins}"
