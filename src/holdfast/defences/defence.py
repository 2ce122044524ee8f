"""The interface of every defence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn

from holdfast.ascent.meter import Classifier


@dataclass(frozen=True)
class Opening:
    """One way in which an adaptive attacker sees a defended classifier.

    Args:
        name: what reports call it.
        classifier: images (N,C,H,W) in [0, 1] -> logits (N,K).
        draws: how many evaluations of an image to average over, where it is randomised; else 1.
        flat: why no gradient passes through it; empty where one does.
    """

    name: str
    classifier: Classifier
    draws: int = 1
    flat: str = ""


class Defence(Protocol):
    """A change of how a classifier is used, not of how it is trained; a frozen dataclass: its fields are its configuration.

    ``transductive``: a prediction depends on the other images it is made with, or on those seen before. Such numbers
    depend on the order and the batches, and stand in a column of their own.
    """

    transductive: ClassVar[bool]

    def wrap(self, module: nn.Module) -> Classifier:
        """The defended classifier, fresh: it has seen nothing yet. ``module`` is copied and never changed.

        Raises:
            BadModel: the defence does not apply to this model.
        """
        ...

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        """How an adaptive attacker sees it, fresh: the undefended core and the defended classifier at least.

        Sources: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018); Tramer et
        al., "On adaptive attacks to adversarial example defenses" (NeurIPS 2020): a defence that was only attacked as if
        it were not there has not been evaluated.

        Raises:
            BadModel: as `wrap`.
        """
        ...
