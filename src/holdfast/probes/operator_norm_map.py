"""Bounds from above and from below of how far a map can stretch a difference, ||f(x) - f(y)|| <= L ||x - y||."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast import keys

Norm = Literal["l2", "linf"]
"""In which differences are measured, before the map and after it."""

OUTWARD = 1 + 1e-9
"""What every upper bound is raised by: far above the rounding of float64 in the largest of its sums."""
TOLERANCE = 1e-5
"""When a search for a singular vector ends: ||A'A v - t v|| <= ``TOLERANCE`` t; t is then that near to an eigenvalue."""

_BASIS = 12  # vectors at a time: the memory of a dozen feature maps
_PRODUCTS = 600  # with A and with A', at most
_POWERS = 50


@dataclass(frozen=True)
class Exact:
    """A map whose constants are known, and attained or approached: those of `Norm`."""

    l2: float
    linf: float


@dataclass(frozen=True)
class Linear:
    """A linear map A of float64 tensors.

    Args:
        apply: x -> A x, differentiable.
        absolute: x -> |A| x, where |A| has the absolute entries.
        like: some x, (1, ...): only its shape and its device count.
        bound: an upper bound of the spectral norm; unless given, that of |A| serves, which is as large where no entry of A
            is negative.
        rescaled: the map followed by a factor for each channel, (D,); None where that is no map of the same kind.
    """

    apply: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]
    like: Tensor
    bound: Callable[[], float] | None = None
    rescaled: Callable[[Tensor], Linear] | None = None


Map = Exact | Linear


def upper(of: Map, norm: Norm) -> float:
    """A certified upper bound of the map's constant; in Linf the constant itself, the largest row sum of |A|."""
    if isinstance(of, Exact):
        return of.l2 if norm == "l2" else of.linf
    if norm == "linf":
        return _row_sum(of) * OUTWARD
    return (_perron(of) if of.bound is None else of.bound()) * OUTWARD


def lower(of: Map, norm: Norm) -> float:
    """How far the map stretches the worst difference that was found."""
    if isinstance(of, Exact):
        return of.l2 if norm == "l2" else of.linf
    return (_row_sum(of) if norm == "linf" else _found(of)) / OUTWARD


def adjoint(apply: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """y -> A' y, by automatic differentiation: strides and paddings are right by construction."""
    with torch.enable_grad():
        x = torch.zeros_like(like, dtype=torch.float64).requires_grad_()
        image = apply(x)
    return lambda y: torch.autograd.grad(image, x, y, retain_graph=True)[0]


def _row_sum(of: Linear) -> float:
    return float(of.absolute(torch.ones_like(of.like, dtype=torch.float64)).max())


def _perron(of: Linear) -> float:
    """An upper bound of the spectral norm of |A|, hence of A: for every v > 0 the root of max (|A|'|A| v) / v.

    Source: Collatz and Wielandt's bound (Horn and Johnson, "Matrix analysis", theorem 8.1.26). Powers of |A|'|A| give v.
    """
    back = adjoint(of.absolute, of.like)
    vector = torch.ones_like(of.like, dtype=torch.float64)
    bound = math.inf
    for _ in range(_POWERS):
        image = back(of.absolute(vector))
        # Where a column of A is zero, nothing is stretched: the entry is 0 after the first power, and stays it.
        largest = float(torch.where(vector > 0, image / vector, 0.0).max())
        if largest >= bound * (1 - 1e-6):
            break
        bound, vector = largest, image / image.max()
    return math.sqrt(min(bound, largest))


def _found(of: Linear) -> float:
    """||A v|| / ||v|| for the best v of a restarted Lanczos search.

    Source: Golub and Van Loan, "Matrix computations", section 10.1, with full orthogonalisation. Power iteration reaches the
    same number, with many times as many products.
    """
    shape = of.like.shape
    key = keys.root(0, device=of.like.device)[None]
    # Positive draws: they have a part in the slowest wave, which poolings and most first layers stretch the most.
    vector = keys.uniform(key, shape[1:], dtype=torch.float64) + 2.0**-24
    back = adjoint(of.apply, vector)
    best, size = vector.flatten(), vector.numel()
    basis, images = (best.new_empty(min(_BASIS, size), size) for _ in range(2))
    for _ in range(0, _PRODUCTS, len(basis)):
        vector = best / best.norm()
        for count in range(1, len(basis) + 1):
            basis[count - 1] = vector
            images[count - 1] = back(of.apply(vector.view(shape))).flatten()
            known, seen = basis[:count], images[:count]
            projected = known @ seen.T
            values, weights = torch.linalg.eigh((projected + projected.T) / 2)
            value, weight = values[-1], weights[:, -1]
            best = weight @ known
            done = bool((weight @ seen - value * best).norm() <= TOLERANCE * value.abs())
            vector = seen[-1]
            for _ in range(2):  # twice: once leaves what rounding put back
                vector = vector - known.T @ (known @ vector)
            length = vector.norm()
            if done or length <= 1e-12 * value.abs():
                return _stretch(of, best)
            vector = vector / length
    return _stretch(of, best)


def _stretch(of: Linear, vector: Tensor) -> float:
    return float(of.apply(vector.view(of.like.shape)).norm() / vector.norm())
