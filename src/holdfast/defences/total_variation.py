"""Total variation minimisation before the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from holdfast import keys
from holdfast.defences.options import between, whole
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.registry import register

_STEP = 1 / math.sqrt(8)
"""Of both variables: the squared norm of the gradient operator is below 8."""


@register
@dataclass(frozen=True)
class TotalVariation(ViewDefence):
    """The model sees the image of little variation that agrees with a random part of the pixels.

    It minimises, over z, half the squared distance to the image at the kept pixels plus ``weight`` times the total variation
    of z, channel by channel (Rudin, Osher and Fatemi, Physica D 1992).

    Sources: Guo et al., "Countering adversarial images using input transformations" (ICLR 2018), which keeps
    half of the pixels; Chambolle and Pock, "A first-order primal-dual algorithm" (2011), algorithm 1, for the search.
    Departures: the distance is squared and the variation isotropic; a fixed number of steps, with a gradient.

    ``straight_through`` is the other opening, which broke it (Athalye, Carlini and Wagner, "Obfuscated gradients", ICML
    2018).

    Args:
        weight: of the variation; 0.03 to 0.1 for CIFAR-10.
        keep: how likely a pixel, with all its channels, is kept. At 1 nothing is drawn.
        steps: of the search.
        num_draws: over how many draws of the pixels probabilities are averaged.
        seed: of all draws.
    """

    backward = ("true", "straight_through")

    weight: float = 0.03
    keep: float = 0.5
    steps: int = 50
    num_draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        between("weight", self.weight, 0, math.inf, 0.03)
        between("keep", self.keep, 0, 1, 0.5)
        whole("steps", self.steps, 1)
        whole("num_draws", self.num_draws, 1)

    def view(self, x: Tensor, key: Tensor) -> Tensor:
        kept = keys.uniform(key, (1, *x.shape[2:])) < self.keep
        return flattened(x, kept.to(x.dtype), self.weight, self.steps)


def flattened(x: Tensor, kept: Tensor, weight: float, steps: int) -> Tensor:
    """``steps`` steps towards the minimum for images (R, C, H, W), of whose pixels those with ``kept`` 1 count, not 0."""
    z = smooth = x * kept + 0.5 * (1 - kept)
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        down = down + _STEP * functional.pad(smooth.diff(dim=-2), (0, 0, 0, 1))
        right = right + _STEP * functional.pad(smooth.diff(dim=-1), (0, 1))
        # The square root is only taken where it is needed: at 0 it has no derivative.
        excess = ((down.square() + right.square()) / weight**2).clamp_min(1).rsqrt()
        down, right = down * excess, right * excess
        # The duals' last row and column are always 0: nothing flows over the edge.
        flow = down.diff(dim=-2, prepend=torch.zeros_like(down[..., :1, :]))
        flow = flow + right.diff(dim=-1, prepend=torch.zeros_like(right[..., :1]))
        new = (z + _STEP * (flow + kept * x)) / (1 + _STEP * kept)
        smooth, z = 2 * new - z, new
    return z
