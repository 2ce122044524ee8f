"""Whether an input gradient lies along what is seen in the image: cosines, the share on the object, sparsity, radii.

Images and gradients are (n, C, H, W); what comes back is one number for each image, (n,) float64, NaN where a gradient is
zero or not finite.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIM = 28
"""For every so many pixels of its side, an object's edge is one pixel wide."""
DARK = 0.9
"""The share of images whose frame must be mostly dark before their background counts as plain."""


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of the angle between what belongs to an image, in [-1, 1]."""
    return (_unit(first) * _unit(second)).sum(1)


def centred(x: Tensor) -> Tensor:
    """Every image without its mean over channels and pixels: adding a constant to it changes nothing."""
    return x - x.flatten(1).mean(1).view(-1, 1, 1, 1)


def class_means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean image of each class, (classes, C, H, W) float64; NaN where a class has no image."""
    total = x.new_zeros(classes, *x.shape[1:], dtype=torch.float64).index_add_(0, y, x.double())
    return total / y.bincount(minlength=classes).view(-1, 1, 1, 1)


def objects(x: Tensor, above: float) -> Tensor:
    """Which pixels show the object, (n, H, W) bool: those above the threshold in any channel, and the edge around them,
    one pixel wide for every `RIM` pixels of the image's side."""
    rim = max(x.shape[2:]) // RIM
    bright = (x.amax(1, keepdim=True) > above).float()
    return F.max_pool2d(bright, 2 * rim + 1, 1, rim)[:, 0] > 0


def plain(x: Tensor, above: float) -> bool:
    """Whether images have a plain dark background, so that brightness tells the object from it: of `DARK` of them at least,
    more than half of the outermost pixels are not above the threshold."""
    bright = x.amax(1) > above
    frame = torch.ones_like(bright[0])
    frame[1:-1, 1:-1] = False
    return float((bright[:, frame].double().mean(1) < 0.5).double().mean()) >= DARK


def on_object(grad: Tensor, shown: Tensor) -> Tensor:
    """The share of the sum of absolute values that lies on the pixels ``shown``, (n, H, W); noise has that of their area.

    NaN where all pixels are shown, or none.
    """
    size = grad.double().abs().sum(1)
    share = (size * shown).flatten(1).sum(1) / size.flatten(1).sum(1)
    some = shown.flatten(1).any(1) & ~shown.flatten(1).all(1)
    return torch.where(some, share, torch.nan)


def gini(grad: Tensor) -> Tensor:
    """How unevenly the absolute values are spread: 0 where all are equal, 1 - 1/d where one of d is not 0, 0.414 for normal
    noise. Source: Hurley and Rickard, "Comparing measures of sparsity" (IEEE Transactions on Information Theory 2009)."""
    sizes = grad.double().abs().flatten(1).sort(1).values
    d = sizes.shape[1]
    rank = 2 * torch.arange(1, d + 1, dtype=sizes.dtype, device=sizes.device) - d - 1
    return (sizes * rank).sum(1) / (d * sizes.sum(1))


def alpha(x: Tensor, grad: Tensor) -> Tensor:
    """|<x, g>| / ||g||, the alignment of Etmann et al., "On the connection between adversarial robustness and saliency map
    interpretability" (ICML 2019). Adding a constant to the images changes it."""
    return (x.double().flatten(1) * _unit(grad)).sum(1).abs()


def linearised(value: Tensor, grad: Tensor) -> Tensor:
    """|f| / ||grad f||: the L2 distance to the zero of f if it were linear (as above). Of a ReLU net without biases
    <x, grad f> = f (Euler), so that this is `alpha`."""
    length = grad.double().flatten(1).norm(dim=1)
    return torch.where(length > 0, value.double().abs() / length, torch.nan)


def _unit(values: Tensor) -> Tensor:
    """Rows of length 1, (n, d) float64; NaN where the length is 0 or not finite. Scaled first: squares may vanish."""
    flat = values.double().flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True)
