"""A classifier compiled for batches of one size, whatever size a search hands it."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.ascent.meter import Classifier

MODES = {"default": "default", "graph": "reduce-overhead"}
"""What ``torch.compile`` calls the ways to compile; ``graph`` replays CUDA graphs."""


class Compiled:
    """``classifier`` through ``torch.compile``, at one batch size: another would be compiled anew.

    A batch of more than half the size is padded with copies of its first image, whose answers are dropped; a smaller one
    goes to ``classifier`` as it is, so that less than half of what is computed is padding; a larger one is cut.
    A forward with and one without a gradient are compiled, when the first of each comes.

    Args:
        classifier: images (N,C,H,W) -> logits (N,K), each row by itself.
        size: the images of a compiled batch.
        mode: a key of `MODES`.

    ``rows``: images that were evaluated compiled; ``padding``: copies beside them; ``plain``: images evaluated as they are.
    """

    def __init__(self, classifier: Classifier, size: int, mode: str) -> None:
        def call(x: Tensor) -> Tensor:
            return classifier(x)

        # What is compiled is kept with the code that is called, a few entries at most: so every classifier gets its own.
        own = FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
        self.classifier, self.size = classifier, size
        self._compiled = torch.compile(own, dynamic=False, mode=MODES[mode])
        self.rows = self.padding = self.plain = 0

    def __call__(self, x: Tensor) -> Tensor:
        parts = [self._part(part) for part in x.split(self.size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, x: Tensor) -> Tensor:
        if 2 * len(x) <= self.size:
            self.plain += len(x)
            return self.classifier(x)
        self.rows += len(x)
        self.padding += self.size - len(x)
        # Copied, in both directions: a CUDA graph writes its next answers where it wrote these.
        return self._compiled(_Padded.apply(x, self.size))[: len(x)].clone()


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.count = len(x)
        return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grads[0][: ctx.count].clone(), None
