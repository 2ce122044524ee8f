"""Leaves a user's module, and the global generators, exactly as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def frozen(module: object) -> Iterator[None]:
    """Evaluation mode and no parameter gradients within; afterwards every flag is as it was, also after an exception.

    The flags are set one by one instead of through ``eval()``, because a module may override ``train()`` to do more
    than set them (some merge their weights there). ``.grad`` is not touched.

    Args:
        module: an ``nn.Module``, or any other callable, for which this does nothing.
    """
    if not isinstance(module, nn.Module):
        yield
        return
    modes = [(each, each.training) for each in module.modules()]
    needs = [(each, each.requires_grad) for each in module.parameters()]
    try:
        for each, _ in modes:
            each.training = False
        for parameter, _ in needs:
            parameter.requires_grad_(False)
        yield
    finally:
        for each, mode in modes:
            each.training = mode
        for parameter, need in needs:
            parameter.requires_grad_(need)


@contextmanager
def rng_kept(device: torch.device | str = "cpu") -> Iterator[None]:
    """Afterwards Python, NumPy and torch (CPU and ``device``) draw on as if nothing had been drawn within."""
    place = torch.device(device)
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's model may draw from it
    try:
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def float32_kept() -> Iterator[None]:
    """Float32 is computed in float32 within; by default convolutions on CUDA round their factors to 10 bits (TF32)."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def repeatable(module: object, *, seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """All three of these; and a randomised module draws from the seed within."""
    with frozen(module), rng_kept(device), float32_kept():
        torch.manual_seed(seed)
        yield
