"""A module that computes in a smaller type than the search around it.

Weights and activations are in the small type; images, logits, losses, steps and projections keep theirs. The weights are
cast, not the operations (autocast): measured on a CPU with bfloat16 instructions, PreAct ResNet-18, a forward and an input
gradient of 32 CIFAR images took 0.215 s cast, 0.238 s by autocast and 0.446 s in float32.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.search_copy import TOLERANCE, Answer, answer, furthest, short

ALIGNED = 0.9
"""The least median cosine between input gradients; measured in bfloat16 on eight nets, robust and not: 0.988 to 1.000."""


class Rounded(nn.Module):
    """Images (N,C,H,W) -> logits (N,K) of the same type, by a ``module`` that takes and gives ``dtype``.

    No gradient underflows in the small type, whose smallest number is 6e-8 in float16: each row's gradient in the logits is
    scaled to a largest entry between 1/2 and 1 before it enters the module, and what comes out is scaled back in the
    images' type. The factors are powers of two, so that this alone rounds nothing. Rows must not depend on one another.
    What overflows inside is no answer: a logit becomes 0 (NaN) or the type's largest number, an entry of the gradient 0.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        low, scale = _Down.apply(images, self.dtype)  # pyrefly: ignore
        return _Up.apply(self.module(low), scale)  # pyrefly: ignore


class _Down(torch.autograd.Function):
    """The images in the small type. The second output is a stand-in whose gradient brings each row's factor back here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return x.to(dtype), x.new_zeros(len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyrefly: ignore[bad-override]
        grad, scale = grads
        kept = torch.nan_to_num(grad.to(scale.dtype), nan=0.0, posinf=0.0, neginf=0.0)
        return kept * scale.view(-1, *([1] * (kept.dim() - 1))), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, scale: Tensor) -> Tensor:
        ctx.dtype = low.dtype
        return torch.nan_to_num(low).to(scale.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyrefly: ignore[bad-override]
        grad = torch.nan_to_num(grads[0], nan=0.0, posinf=0.0, neginf=0.0)
        exponent = torch.frexp(grad.abs().amax(1)).exponent.clamp(-100, 100)
        one = torch.ones_like(grad[:, 0])
        return (grad * torch.ldexp(one, -exponent)[:, None]).to(ctx.dtype), torch.ldexp(one, exponent)


class Lowered(NamedTuple):
    """A copy in a smaller type; where it would change the answers, or raises, None and the reason."""

    module: Rounded | None
    reason: str


def lowered(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Lowered:
    """A copy of ``module`` that computes in ``dtype``, if it departs on the images ``x`` by that type's rounding only."""
    try:
        with frozen(module), rng_kept(x.device):
            low = Rounded(copy.deepcopy(module).to(dtype), dtype)
            changed = departure(answer(module, x), answer(low, x), TOLERANCE[dtype])
    except Exception as error:  # a forward pass that makes tensors of a type of its own may raise anything
        return Lowered(None, f"{dtype} raises {short(error)}")
    return Lowered(None, f"{dtype} changed {changed}") if changed else Lowered(low, "")


def departure(wanted: Answer, given: Answer, tolerance: float) -> str:
    """What one answer changes of another by more than rounding, in words; empty if nothing.

    Rounding moves no logit by more than ``tolerance`` of the spread of the image's logits, so that a class can only change
    where the two best are within twice that; and it leaves a median cosine of `ALIGNED` between the input gradients.
    """
    far = furthest(wanted.logits, given.logits)
    if far > tolerance:
        flipped = int((wanted.logits.argmax(1) != given.logits.argmax(1)).sum())
        images = f"{flipped} of {len(wanted.logits)} images"
        return f"the answers: a logit by {far:.1%} of the spread of the image's logits, the class of {images}"
    cosine = _cosine(wanted.grad, given.grad)
    if not cosine >= ALIGNED:
        return f"the input gradients: the median cosine between them and the true ones is {cosine:.2f}"
    return ""


def _cosine(wanted: Tensor | None, given: Tensor | None) -> float:
    """The median cosine between the rows of two gradients; 1 where both are 0 or missing, 0 where one is missing."""
    if wanted is None or given is None:
        return float(wanted is given)
    a, b = wanted.cpu().flatten(1).double(), given.cpu().flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(a, b)
    return float(torch.where((a == 0).all(1) & (b == 0).all(1), 1.0, cosine).median())
