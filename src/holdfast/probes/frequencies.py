"""Spatial frequencies: bands of the discrete cosine transform, the boundary inside one of them, and Fourier waves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent.meter import Classifier
from holdfast.foundation.errors import BadValue
from holdfast.threats.threat import rows

CHANGE = 0.3, 0.01
"""By which share the sphere of `boundary` grows or shrinks in the first step, and in the last."""
STRIDE = 1.0, 0.05
"""How far it steps, in radii of the sphere, at first and at last."""


@dataclass(frozen=True)
class Band:
    """Coefficients of the cosine transform: ``mask`` (H, W) bool, whose frequencies lie in [``low``, ``high``], in cycles
    per pixel, the length of the frequency vector: from 0 to sqrt(1/2)."""

    low: float
    high: float
    mask: np.ndarray


def bands(height: int, width: int, num: int) -> tuple[Band, ...]:
    """The coefficients in the order of their frequency, cut into ``num`` bands that all hold as many, give or take one.

    As many: the boundary is nearer in a space of more dimensions, whatever the net.

    Source: Ortiz-Jimenez, Modas, Moosavi-Dezfooli and Frossard, "Hold me tight! Influence of discriminative features on deep
    network boundaries" (NeurIPS 2020). Departure: rings of equal size in the place of square blocks on the diagonal.
    """
    if not 1 <= num <= height * width:
        raise BadValue(f"num is {num!r} for {height}x{width} pixels", hint="for example num=5")
    across, down = (np.arange(size) / (2 * size) for size in (width, height))
    lengths = np.hypot(down[:, None], across[None, :])
    order = np.argsort(lengths, axis=None, kind="stable")
    found = []
    for part in np.array_split(order, num):
        mask = np.zeros(height * width, dtype=bool)
        mask[part] = True
        inside = lengths.reshape(-1)[part]
        found.append(Band(float(inside.min()), float(inside.max()), mask.reshape(height, width)))
    return tuple(found)


class Restriction:
    """The orthogonal projections of images (R, C, H, W) onto the cosine coefficients of ``masks``, (R, H, W) bool."""

    def __init__(self, masks: Tensor, like: Tensor) -> None:
        self._masks = masks[:, None].to(like)
        self._down, self._across = (_cosines(size).to(like) for size in like.shape[2:])

    def __call__(self, images: Tensor) -> Tensor:
        inside = (self._down @ images @ self._across.T) * self._masks
        return self._down.T @ inside @ self._across


def boundary(model: Classifier, x: Tensor, masks: Tensor, *, steps: int = 40) -> Tensor:
    """How far from each image, in L2, another answer of the model was found with changes made of ``masks`` alone, (R,);
    inf where none was found. An upper bound of the margin in that subspace.

    A search on spheres: steps along the gradient of the difference between the strongest other logit and that of the first
    answer, projected; the sphere shrinks where the point has another answer, and grows where not. Its first radius is the
    linearised distance. The pixel box is no limit, since a clipped change leaves the subspace; but no change is made longer
    than the box's diagonal.

    Source: the margin in a subspace: Ortiz-Jimenez et al. (NeurIPS 2020), who step as DeepFool does; the search: Rony et
    al., "Decoupling direction and norm" (CVPR 2019), with a growth that wanes.

    Args:
        model: images -> logits (R, K).
        x: images, (R, C, H, W).
        masks: (R, H, W) bool, the cosine coefficients that may change, in every channel.
        steps: forwards and gradients for each image.
    """
    inside, farthest, tiny = Restriction(masks, x), math.sqrt(x[0].numel()), torch.finfo(x.dtype).tiny
    delta, radius = torch.zeros_like(x), x.new_zeros(len(x))
    nearest = torch.full_like(radius, torch.inf)
    answer = None
    for step in range(steps + 1):
        with torch.enable_grad():
            point = (x + delta).detach().requires_grad_()
            logits = model(point)
            answer = logits.argmax(1) if answer is None else answer
            own = logits.gather(1, answer[:, None])[:, 0]
            rise = logits.scatter(1, answer[:, None], -torch.inf).amax(1) - own
            (grad,) = torch.autograd.grad(rise.sum(), point)
        other = logits.argmax(1) != answer
        nearest = torch.where(other, torch.minimum(nearest, delta.flatten(1).norm(dim=1)), nearest)
        way = inside(grad)
        slope = way.flatten(1).norm(dim=1).clamp_min(tiny)
        change, stride = (first * (last / first) ** (step / steps) for first, last in (CHANGE, STRIDE))
        if step == 0:
            radius = -rise.detach() / slope
        else:
            radius = torch.where(other, torch.minimum(radius, nearest) * (1 - change), radius * (1 + change))
        radius = radius.clamp_max(farthest)
        ahead = delta + way * rows(stride * radius / slope, x)
        delta = ahead * rows(radius / ahead.flatten(1).norm(dim=1).clamp_min(tiny), x)
    return nearest


def wave(height: int, width: int, down: int, across: int) -> np.ndarray:
    """A cosine of whole periods, ``down`` over the height and ``across`` over the width, of L2 norm 1: (H, W) float64.

    Source: the real Fourier basis of Yin, Lopes, Shlens, Cubuk and Gilmer, "A Fourier perspective on model robustness in
    computer vision" (NeurIPS 2019), section 3.
    """
    phase = down * np.arange(height)[:, None] / height + across * np.arange(width)[None, :] / width
    found = np.cos(2 * math.pi * phase)
    return found / np.linalg.norm(found)


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform DCT-II of vectors as a matrix, (size, size) float64, lowest frequency first."""
    from scipy.fft import dct

    return torch.from_numpy(dct(np.eye(size), axis=0, norm="ortho"))
