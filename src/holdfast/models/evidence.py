"""What the doctor looks at: a few evaluations of a model, gathered once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.ascent.engine import predict
from holdfast.ascent.halves import halves, short_of_memory
from holdfast.ascent.search_copy import TOLERANCE
from holdfast.models.model import Model

_ALONE, _GRADIENTS, _BATCH = 4, 32, 64


@dataclass(frozen=True)
class Evidence:
    """What the checks look at.

    ``again`` is a second evaluation; ``alone`` are the logits of the first images one by one, or what went wrong then;
    ``margin`` is the gap between the two largest logits; ``grad`` is its input gradient, None where there is none.
    """

    model: Model
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    training: bool
    logits: Tensor
    again: Tensor
    alone: Tensor | str
    margin: Tensor
    grad: Tensor | None

    @property
    def rounding(self) -> Tensor:
        """(n,) the largest difference of two evaluations of one image that can be rounding."""
        return 10 * TOLERANCE.get(self.logits.dtype, 1e-4) * (self.logits.amax(1) - self.logits.amin(1))


def gathered(
    model: Model,
    images: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    *,
    training: bool,
    logits: Tensor,
) -> Evidence:
    """The evidence about a frozen model whose ``logits`` (n,K) for all ``images`` (n,C,H,W) are known already."""
    margin, grad = _gradient(model, images[:_GRADIENTS])
    return Evidence(
        model=model,
        images=images,
        labels=labels,
        class_names=class_names,
        training=training,
        logits=logits,
        again=torch.as_tensor(forward(model, images)),
        alone=_one_by_one(model, images[:_ALONE]),
        margin=margin,
        grad=grad,
    )


def forward(model: Model, images: Tensor) -> object:
    """The outputs for (n,C,H,W) images, batch by batch; of a model that returns no tensor those of the first batch."""
    parts = [predict(model, part) for part in images.split(_BATCH)]
    return torch.cat(parts) if all(isinstance(part, Tensor) for part in parts) else parts[0]


def _one_by_one(model: Model, images: Tensor) -> Tensor | str:
    try:
        with torch.no_grad():
            parts = [model(image[None]) for image in images]
    except Exception as error:  # a foreign forward may raise anything
        return f"{type(error).__name__}: {error}"
    if any(part.dim() != 2 or len(part) != 1 for part in parts):
        return f"its output has shape {tuple(parts[0].shape)}"
    return torch.cat(parts)


def _gradient(model: Model, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gap between the two largest logits, and its input gradient: unlike cross-entropy's it cannot saturate."""

    def of_some(at: slice) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            x = images[at].detach().clone().requires_grad_()
            top = model(x).topk(2, dim=1).values
            margin = top[:, 0] - top[:, 1]
            try:
                (grad,) = torch.autograd.grad(margin.sum(), x)
            except RuntimeError as error:  # torch's only word for "does not depend on the input"
                if short_of_memory(error):
                    raise
                return margin.detach(), None
        return margin.detach(), grad

    margins, grads = zip(*halves(of_some, len(images), len(images)).parts)
    return torch.cat(margins), None if None in grads else torch.cat(grads)
