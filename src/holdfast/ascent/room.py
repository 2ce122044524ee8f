"""How many searches run at once: as many as usual, or as the free memory holds."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.ascent.engine import default_slots
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier
from holdfast.foundation import memory

PROBED = 3
"""Images that `slots_for` evaluates."""

TRANSIENT = 1.5
"""What a forward and backward pass takes at its peak, over what is kept between the two: 0.8 to 1.4 was measured on nets
that keep more than 4 MiB an image."""


def graphs_at_once(device: torch.device) -> int:
    """Evaluations of a model whose graphs are kept at a time: on a CPU 2 GB of a ResNet-18 on CIFAR images."""
    return 96 if device.type == "cpu" else 2048


def slots_for(model: Classifier, x: Tensor, *, processes: int = 1) -> int:
    """`default_slots`, or fewer where the memory that is free would not hold a forward and backward pass of so many.

    Args:
        model: what is searched.
        x: images (n, C, H, W) on its device; two of them are evaluated, fewer than two are not.
        processes: how many share the memory.
    """
    usual = default_slots(x)
    free = _free(x.device)
    if len(x) < 2 or free is None:
        return usual
    try:
        with frozen(model), rng_kept(x.device):
            row = _kept(model, x[:2]) - _kept(model, x[:1])
    except Exception:  # a foreign forward may raise anything; the run will tell
        return usual
    return usual if row <= 0 else max(1, min(usual, int(free / processes / (TRANSIENT * row))))


def _kept(model: Classifier, x: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x.detach().clone().requires_grad_())
    return sum(storage.nbytes() for storage in kept.values())


def _free(device: torch.device) -> int | None:
    if device.type == "cpu":
        return memory.free()
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return None
