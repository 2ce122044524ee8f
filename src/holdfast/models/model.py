"""A classifier under test, with what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast.records.schema import ModelInfo


@dataclass(frozen=True)
class Model:
    """A classifier with its name, its input shape and its fingerprint; made by `holdfast.models.load.load`.

    Args:
        module: float images (N,C,H,W) in [0,1] -> logits (N,K); any normalisation is inside. Where it is the user's own
            module it is the very object: evaluate it inside `holdfast.ascent.frozen.frozen`.
        name: what reports call it.
        classes: K.
        shape: (C,H,W) of one image.
        fingerprint: 32 hexadecimal digits over layers, their settings and all weights; see `fingerprint`.
        parameters: number of weights.
        dtype: of the weights, and so of the images.
        device: of the weights, and so of the images.
        declared: what its weights file says about it, and the normalisation and resizing that were put in front.
        class_names: one per class, where its origin knows them.
        differentiable: whether logits have a gradient in the images; False of what another library evaluates.
    """

    module: Callable[[Tensor], Tensor]
    name: str
    classes: int
    shape: tuple[int, int, int]
    fingerprint: str
    parameters: int
    dtype: torch.dtype
    device: torch.device
    declared: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    differentiable: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0,1], of the model's dtype and device -> logits (N,K)."""
        return self.module(images)

    def info(self) -> ModelInfo:
        """What a run writes about the model."""
        return ModelInfo(
            name=self.name,
            fingerprint=self.fingerprint,
            classes=self.classes,
            shape=self.shape,
            parameters=self.parameters,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            declared=dict(self.declared),
        )


def fingerprint(module: Callable[[Tensor], Tensor]) -> str:
    """32 hexadecimal digits that identify a classifier across processes and machines.

    They cover the class and the printed settings of every layer, and name, dtype, shape and bytes of every entry of the
    state dict. Device, mode and gradients do not enter. Of a plain function only its qualified name is covered.
    """
    digest = hashlib.sha256()
    if not isinstance(module, nn.Module):
        owner = module if hasattr(module, "__qualname__") else type(module)
        digest.update(f"{owner.__module__}.{getattr(owner, '__qualname__', '')}".encode())
        return digest.hexdigest()[:32]
    for name, layer in module.named_modules():
        kind = type(layer)
        digest.update(f"{name}|{kind.__module__}.{kind.__qualname__}|{layer.extra_repr()}\n".encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name}|".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}|{tuple(value.shape)}\n".encode())
            # Viewed as bytes because NumPy has no bfloat16; flattened first because a scalar cannot be viewed so.
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:  # an extra state may be any object, whose text need not be the same tomorrow
            digest.update(type(value).__qualname__.encode())
    return digest.hexdigest()[:32]


def placement(module: Callable[[Tensor], Tensor], *, device: torch.device) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of a module's first floating weight or buffer; float32 and ``device`` where it has none."""
    if isinstance(module, nn.Module):
        for tensors in (module.parameters(), module.buffers()):
            for tensor in tensors:
                if tensor.is_floating_point():
                    return tensor.dtype, tensor.device
    return torch.float32, device
