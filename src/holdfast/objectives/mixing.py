"""Images mixed with one another, and their labels: partners, weights and loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import keys
from holdfast.objectives.objective import Examples
from holdfast.threats.threat import rows as per_row

PARTNER = keys.number("partner")
WEIGHT = keys.number("mixing weight")


class Mixed(NamedTuple):
    """Images ``x`` (N, C, H, W) of two labels each: ``y`` by the ``share`` (N,), ``other`` by the rest."""

    x: Tensor
    y: Tensor
    other: Tensor
    share: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy to both labels by their shares, (N,): that to the mixed label."""
        first, second = (F.cross_entropy(logits, label, reduction="none") for label in (self.y, self.other))
        return self.share * first + (1 - self.share) * second


def partners(key: Tensor) -> Tensor:
    """Another image of the batch for each, (N,) int64: the next one on a circle that the keys (N,) arrange.

    Who is whose partner is decided by the set of keys, not by the order of the batch. No image is its own partner, unless
    it is alone.
    """
    order = keys.fold(key, PARTNER).argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def symmetric_beta(key: Tensor, alpha: float) -> Tensor:
    """A draw from Beta(alpha, alpha) for each key, (N,) float64.

    Source: the polar method of Bailey, "Polar generation of random variates with the t-distribution" (Mathematics of
    Computation 1994), and the map that takes a t variate of 2 alpha degrees of freedom to this distribution. Exact for
    every alpha, without rejection.
    """
    radius, angle = keys.uniform(keys.fold(key, WEIGHT), (2,), dtype=torch.float64).unbind(1)
    radius = (radius + 2.0**-25).pow(1 / alpha)  # never zero
    cosine = torch.cos(2 * torch.pi * (angle + 2.0**-25))
    square = (1 - radius) * cosine * cosine
    return (1 + cosine.sign() * (square / (radius + square)).sqrt()) / 2


def others(batch: Examples) -> tuple[Tensor, Tensor]:
    """The partner of each image, (N, C, H, W), and its label, (N,); it may be in another part of the same batch."""
    rows, whole = (slice(None), batch) if batch.of is None else batch.of
    partner = partners(whole.key)[rows]
    return whole.x[partner], whole.y[partner]


def mixed(batch: Examples, alpha: float) -> Mixed:
    """Every image mixed with its partner by a weight of its own from Beta(alpha, alpha)."""
    (x, y), share = others(batch), symmetric_beta(batch.key, alpha).to(batch.x.dtype)
    weight = per_row(share, x)
    return Mixed(weight * batch.x + (1 - weight) * x, batch.y, y, share)
