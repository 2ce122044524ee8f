"""Attributions that average gradients: integrated gradients and SmoothGrad, through captum, an optional dependency."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holdfast.ascent.frozen import rng_kept
from holdfast.foundation.errors import BadValue

ATTRIBUTIONS = ("integrated_gradients", "smooth_grad")
STEPS, DRAWS, NOISE = 50, 25, 0.15
"""Points of the path; noisy copies of an image, and their standard deviation."""


def captum() -> Any:
    """The module ``captum.attr``. Raises BadValue where it cannot be imported."""
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise BadValue(
            f"{' and '.join(ATTRIBUTIONS)} need captum, which cannot be imported: {error}",
            hint='pip install "holdfast[explain]", or ask for the gradient alone',
        ) from None


def gradients_taken(name: str) -> int:
    """Of each image."""
    return STEPS if name == "integrated_gradients" else DRAWS


def attribution(
    name: str, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, seed: int, slots: int
) -> Tensor:
    """The attribution of ``function`` at the images.

    Args:
        name: ``integrated_gradients``, from the black image along `STEPS` points of a Gauss-Legendre rule: its values add
            up to function(x) - function(0) but for the rule's error (Sundararajan, Taly and Yan, ICML 2017); or
            ``smooth_grad``, the mean gradient of `DRAWS` copies with normal noise (Smilkov et al. 2017).
        function: images (m, C, H, W) and labels (m,) -> (m,); the value of an image depends on no other.
        x: images (n, C, H, W).
        y: their labels, (n,) int64.
        seed: of the noise, which depends on the images that are taken together.
        slots: how many images are evaluated at once.

    Returns:
        (n, C, H, W).

    Raises:
        BadValue: captum is not installed.
    """
    attr, found = captum(), []
    with rng_kept(x.device):  # captum draws from the global generator
        torch.manual_seed(seed)
        for part, labels in zip(x.split(slots), y.split(slots)):
            if name == "integrated_gradients":
                path = {"n_steps": STEPS, "internal_batch_size": slots}
                each = attr.IntegratedGradients(function).attribute(
                    part, torch.zeros_like(part), additional_forward_args=labels, **path
                )
            else:
                copies = {"nt_type": "smoothgrad", "nt_samples": DRAWS, "nt_samples_batch_size": 1, "stdevs": NOISE}
                each = attr.NoiseTunnel(attr.Saliency(function)).attribute(
                    part, additional_forward_args=labels, abs=False, **copies
                )
            found.append(each.detach())
    return torch.cat(found)
