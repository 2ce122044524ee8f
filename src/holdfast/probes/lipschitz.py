"""Stability: what the layers' norms certify about a net, what slopes its images show, and how far the two lie apart."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadData, BadValue
from holdfast.foundation.stats import Interval, wilson
from holdfast.probes.lipschitz_graph import Bound, lipschitz_bound
from holdfast.probes.operator_norm_map import OUTWARD, Norm
from holdfast.threats.threat import Threat, rows

NAME = keys.number("lipschitz")
HALF_LEVEL = 0.5 / 255
"""By how much storing a pixel in 8 bits may move it."""


@dataclass(frozen=True)
class LayerNorm:
    """The norm of one layer lies in [``lower``, ``upper``]: ``upper`` is certified, ``lower`` was attained."""

    name: str
    kind: str
    lower: float
    upper: float


@dataclass(frozen=True)
class Lipschitz:
    """The figures of a net on n images, in one norm.

    Args:
        norm: of differences: l2 or linf.
        eps: the radius asked about.
        useful: the smallest radius worth having: ``eps``, or by how far rounding to 8 bits may move an image, whichever
            is larger.
        layers: the norm of each, in order; a batch norm behind a linear layer is part of it.
        total: the certified constant of all logits together: for a chain the product of the layers' upper ends.
        pairs: (K, K) float64, the certified constants of f_i - f_j.
        radii: (n,) float64, within which no image has another class: the smallest f_y - f_j over its constant.
            0 for an image that is classified wrongly.
        slopes: (n,) float64, the largest slope of f_y - f_j that was found within eps, j the strongest other class there.
        certified: the share of images whose radius is ``useful`` at least.
    """

    norm: Norm
    eps: float
    useful: float
    layers: tuple[LayerNorm, ...]
    total: float
    pairs: np.ndarray
    radii: np.ndarray
    slopes: np.ndarray
    certified: Interval

    @property
    def upper(self) -> float:
        """The largest certified constant of a difference of two logits."""
        return float(self.pairs.max())

    @property
    def lower(self) -> float:
        """The largest slope of one that was found: the true constant lies between."""
        return float(self.slopes.max())

    @property
    def ratio(self) -> float:
        """How many times ``upper`` is ``lower``; inf where no slope was found."""
        return self.upper / self.lower if self.lower > 0 else math.inf

    @property
    def says_nothing(self) -> bool:
        """Whether no image is certified at a radius worth having."""
        return self.certified.value == 0

    @property
    def verdict(self) -> str:
        """What the numbers say."""
        name, n = self.norm.upper().replace("INF", "inf"), self.certified.n
        middle = f"median radius {np.median(self.radii):.2g}"
        why = "" if self.useful == self.eps else ", as far as rounding to 8 bits may move an image"
        apart = f"the bound is {self.ratio:,.1f} times the steepest slope found"
        if self.says_nothing:
            return f"says nothing: none of {n} images is certified at {name} {self.useful:.2g}{why} ({middle}); {apart}"
        held = round(self.certified.value * n)
        return f"{held} of {n} images are certified at {name} {self.useful:.2g}{why} ({middle}); {apart}"


def lipschitz(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 30,
    seed: int = 0,
    confidence: float = 0.95,
) -> Lipschitz:
    """Bounds the net from above by its layers and from below by its images.

    A small radius is no finding about robustness: such bounds may rank a net that was trained to be robust behind a standard
    one. Read it beside the ratio. Costs the norms of the layers, and ``steps`` forwards and backwards for each image.

    Args:
        model: images in [0, 1] -> logits (., K), as `lipschitz_bound` needs it.
        x: images, (n, C, H, W).
        y: true labels, (n,) int64.
        threat: L2 or Linf: the norm, and the radius to be certified, within which slopes are looked for.
        steps: of the search for slopes.
        seed: of its draws.
        confidence: of the interval of the share, Wilson's.

    Raises:
        BadValue: a threat in another norm.
        BadData: no images.
        BadModel: as `lipschitz_bound`.
    """
    if threat.name not in ("l2", "linf"):
        raise BadValue(f"the threat is {threat.name}; bounds are in l2 or linf", hint="give L2(0.5) or Linf('8/255')")
    if not len(x):
        raise BadData("no images are given", hint="give one at least")
    norm = cast(Norm, threat.name)
    bound = lipschitz_bound(model, x.shape[1:], norm=norm)
    radii = certified_radii(model, x, y, bound).numpy(force=True)
    rounding = HALF_LEVEL * (math.sqrt(x[0].numel()) if norm == "l2" else 1.0)
    useful = max(threat.eps, rounding)
    return Lipschitz(
        norm,
        threat.eps,
        useful,
        tuple(LayerNorm(each.name, each.kind, each.lower, each.upper) for each in bound.layers),
        bound.total,
        bound.pairs.numpy(force=True),
        radii,
        slopes(model, x, y, threat, steps=steps, seed=seed).double().numpy(force=True),
        wilson(int((radii >= useful).sum()), len(radii), confidence),
    )


def certified_radii(model: nn.Module, x: Tensor, y: Tensor, bound: Bound, *, batch: int = 64) -> Tensor:
    """How far each image is from any of another class at least, (n,) float64, in the norm of ``bound``.

    Certified for the net in exact arithmetic, with logits computed in float64: rounding in float32 may move a boundary by a
    few units in the last place.

    Source: Tsuzuku, Sato and Sugiyama, "Lipschitz-margin training" (NeurIPS 2018), with a constant for each pair.

    Args:
        model: the one that was bounded.
        x: images, (n, C, H, W) in [0, 1].
        y: true labels, (n,) int64.
        bound: see `lipschitz_bound`.
        batch: how many images are evaluated at once.
    """
    with frozen(model), torch.no_grad():
        own = copy.deepcopy(model).double()
        logits = torch.cat([own(part.double()) for part in x.split(batch)])
    margins = logits.gather(1, y[:, None]) - logits
    margins = margins - (OUTWARD - 1) * logits.abs().amax(1, keepdim=True)
    # Logits that nothing tells apart never change places: a positive margin over a bound of 0 is a radius of inf.
    safe = torch.where(margins > 0, margins / bound.pairs.to(margins)[y], 0.0)
    return safe.scatter(1, y[:, None], torch.inf).amin(1)


def slopes(model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 30, seed: int = 0) -> Tensor:
    """The largest slope found near each image, (n,): ||grad (f_y - f_j)|| in the dual norm, j the strongest other class.

    Half of the steps walk down the margin; the others move at random from the steepest point so far. Every slope is a lower
    bound of the Lipschitz constant of f_y - f_j on the set, up to rounding in the model's dtype.

    Source: Weng et al., "Evaluating the robustness of neural networks: an extreme value theory approach" (ICLR 2018), who
    take the largest of random points.

    Args:
        model: images in [0, 1] -> logits (., K).
        x: images, (n, C, H, W).
        y: true labels, (n,) int64.
        threat: L2 or Linf: the ball around each image, cut with the pixel box.
        steps: forwards and backwards for each image.
        seed: of the draws.
    """
    key = keys.fold(keys.fold(keys.root(seed, device=x.device), NAME), torch.arange(len(x), device=x.device))
    at = best = x
    largest = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    with frozen(model):
        for step in range(steps):
            grad = _margin_gradient(model, at, y)
            slope = grad.flatten(1).norm(p=2 if threat.name == "l2" else 1, dim=1)
            better = slope > largest
            best, largest = torch.where(rows(better, x), at, best), torch.maximum(slope, largest)
            if step < steps // 2:
                at = threat.project(x, at - 2 / steps * threat.eps * threat.steepest(grad))
            else:
                away = threat.sample(x, keys.fold(key, step)) - x
                at = threat.project(x, best + away / 2)
    return largest


def _margin_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of f_y less the strongest other logit."""
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        logits = model(at)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        (grad,) = torch.autograd.grad((logits.gather(1, y[:, None])[:, 0] - others).sum(), at)
    return grad
