"""How a net looks from one image to the first order: its loss, the gradient, and how far the gradient is from the truth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.ascent.meter import Classifier
from holdfast.losses import Loss
from holdfast.threats.threat import Threat


class Tangent(NamedTuple):
    """Logits (n, K), loss (n,) and its gradient in the images (n, C, H, W)."""

    logits: Tensor
    value: Tensor
    grad: Tensor


def tangent(model: Classifier, loss: Loss, x: Tensor, y: Tensor) -> Tangent:
    """The tangent of the loss at x. The gradient is zero where the logits do not depend on the images."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        value = loss(logits, y, torch.full_like(y, -1))
        if not value.requires_grad:
            return Tangent(logits, value, torch.zeros_like(x))
        (grad,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    return Tangent(logits.detach(), value.detach(), torch.zeros_like(x) if grad is None else grad)


def fault(found: Tangent) -> str:
    """Why nothing about directions can be read off a net, from its tangents at several images; empty where all is well.

    The loss should not saturate: the margin does not.
    """
    n = len(found.logits)
    broken = ~(torch.isfinite(found.logits).all(1) & torch.isfinite(found.grad).flatten(1).all(1))
    if bool(broken.any()):
        return f"logits or gradients are not finite on {int(broken.sum())} of {n} images"
    spread = float((found.logits.amax(0) - found.logits.amin(0)).max())
    if n > 1 and spread <= 1e-6 * max(1.0, float(found.logits.abs().max())):
        return f"the output is the same for all {n} images"
    flat = int((found.grad.flatten(1).abs().amax(1) == 0).sum())
    return f"the gradient is zero on {flat} of {n} images" if 2 * flat > n else ""


def linearity_error(
    model: Classifier, loss: Loss, x: Tensor, y: Tensor, start: Tensor, *, threat: Threat, steps: int = 20
) -> Tensor:
    """gamma(x) = max over x + d in the threat set of |l(x + d) - l(x) - d . grad l(x)|, (n,), as found by ascent.

    Source: Qin et al., "Adversarial robustness through local linearization" (NeurIPS 2019), equation 5. Departures: steps
    along the threat's steepest direction, 2.5 radii in all, each projected onto ball and pixel box; the largest value on the
    way is kept, so that this is a lower bound.

    Args:
        x, y: images (n, C, H, W) and labels (n,).
        start: where the searches begin, (n, C, H, W); not at x, where the error has no slope.

    Returns:
        One value per image; NaN where the loss is not finite somewhere on the way.
    """
    at = tangent(model, loss, x, y)
    here, largest = threat.project(x, start), torch.zeros_like(at.value)
    size = threat.stride(steps, 2.5)
    for step in range(steps + 1):
        seen = tangent(model, loss, here, y)
        error = seen.value - at.value - ((here - x) * at.grad).flatten(1).sum(1)
        largest = torch.maximum(largest, error.abs())
        if step < steps:
            slope = (seen.grad - at.grad) * error.sign().view(-1, 1, 1, 1)
            here = threat.project(x, here + size * threat.steepest(slope))
    return largest
