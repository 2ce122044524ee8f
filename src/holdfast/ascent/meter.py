"""Counts what a search costs: forwards and input gradients, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Classifier = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] -> logits (N, K); any normalisation is inside."""


class Meter:
    """A classifier that counts its evaluations, whoever makes them and however a gradient is taken.

    ``forwards`` and ``backwards`` are the numbers of images evaluated and of input gradients computed so far; ``cost`` says
    how many evaluations one of this classifier stands for.
    """

    def __init__(self, classifier: Classifier, *, cost: int = 1) -> None:
        self.classifier = classifier
        self.cost = cost
        self.forwards = 0
        self.backwards = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forwards += self.cost * len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.classifier(x)

    def _count(self, grad: Tensor) -> None:
        self.backwards += self.cost * len(grad)
