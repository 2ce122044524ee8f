"""Asks a classifier for the logits of two images, and explains what is wrong where it has none."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.foundation.errors import BadModel
from holdfast.models.model import placement

_CHANNELS = {1: "x = x.mean(1, keepdim=True)", 3: "x = x.expand(-1, 3, -1, -1)"}
"""How a forward makes of its images grey ones, or those of three channels."""
_SIZES = (32, 28, 64, 96, 128, 224, 299, 16, 8)


def probe(
    module: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> int:
    """The number of classes: how many logits ``module`` gives for each of two images, in evaluation mode.

    Args:
        module: images (N,C,H,W) in [0,1] -> logits (N,K). It is left as it was found, and so is the global RNG.
        shape: (C,H,W) of one image.
        dtype, device: of the images.

    Raises:
        BadModel: it raises, for whatever reason (channels, size, dtype and device are told apart), or its output is not
            a floating, finite tensor (2,K) with K >= 2.
    """
    place = torch.device(device)
    own_dtype, own_place = placement(module, device=place)
    if own_place.type != place.type or (place.index is not None and own_place.index != place.index):
        raise BadModel(
            f"the model is on {own_place} and the images are on {place}",
            hint=f"move it there: model.to({str(place)!r})",
        )
    if isinstance(module, nn.Module) and own_dtype != dtype:
        raise BadModel(
            f"the model's weights are {own_dtype} and the images {dtype}", hint=f"convert it: model.to({dtype})"
        )
    try:
        logits = _run(module, shape, dtype=dtype, device=place)
    except Exception as error:  # whatever the user's code raises is told in our words, with its own beside it
        raise _explained(module, shape, error, dtype=dtype, device=place) from error
    return _classes(logits, shape)


def find_shape(
    module: Callable[[Tensor], Tensor], *, channels: int | None, dtype: torch.dtype, device: torch.device
) -> tuple[int, int, int]:
    """An image shape that ``module`` takes, found by trying: a guess where several are possible.

    Args:
        channels: of the images, where known; else those of the first convolution, else 3 and then 1.

    Raises:
        BadModel: none of the usual ones.
    """
    layers = module.modules() if isinstance(module, nn.Module) else ()
    first = channels or next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), None)
    shape = _working(module, [first] if first else [3, 1], _SIZES, dtype=dtype, device=device)
    if shape is None:
        raise BadModel(
            "the shape of the images that this model takes is not known", hint="give shape=(channels, height, width)"
        )
    return shape


def _run(
    module: Callable[[Tensor], Tensor], shape: tuple[int, int, int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    ramp = torch.linspace(0, 1, shape[0] * shape[1] * shape[2], dtype=torch.float64).view(shape)
    images = torch.stack([ramp, ramp.flip(1)]).to(
        device, dtype
    )  # not constant: some nets divide by the image's deviation
    with frozen(module), rng_kept(device), torch.no_grad():
        return module(images)


def _working(
    module: Callable[[Tensor], Tensor],
    channels: list[int],
    sizes: tuple[int, ...],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, int, int] | None:
    for number, size in itertools.product(channels, sizes):
        try:
            logits = _run(module, (number, size, size), dtype=dtype, device=device)
        except Exception:  # only whether it works is asked
            continue
        if isinstance(logits, Tensor) and logits.dim() == 2:
            return number, size, size
    return None


def _explained(
    module: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    error: Exception,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> BadModel:
    theirs = f"its own error: {type(error).__name__}: {error}"
    channels, height, width = shape
    others = [number for number in (1, 3) if number != channels]
    same_size = None
    if height == width:
        same_size = _working(module, others, (height,), dtype=dtype, device=device)
    if same_size is not None:
        names = {1: "1 (grey)", 3: "3 (colour)"}
        return BadModel(
            f"the model takes images with {names[same_size[0]]} channels and the images have "
            f"{names.get(channels, channels)}; {theirs}",
            hint=f"let the model's forward begin with {_CHANNELS[same_size[0]]}, or convert the image files",
        )
    found = _working(module, [channels, *others], _SIZES, dtype=dtype, device=device)
    if found is not None:
        steps = [] if found[1:] == shape[1:] else [f"--size {found[1]}x{found[2]} for image files"]
        steps += [] if found[0] == channels else [f"{_CHANNELS[found[0]]} first in the model's forward"]
        return BadModel(
            f"the model takes images of shape {found} and the images are {shape}; {theirs}",
            hint=f"bring the images there ({' and '.join(steps)}), or give the model that takes these",
        )
    return BadModel(
        f"the model raises on a batch of two images of shape {shape}; {theirs}",
        hint="it is called with float images (N,C,H,W) in [0,1] and must return logits (N,K): try that by hand",
    )


def _classes(logits: object, shape: tuple[int, int, int]) -> int:
    if not isinstance(logits, Tensor):
        field = "its field .logits" if hasattr(logits, "logits") else "the logits"
        raise BadModel(
            f"the model returns a {type(logits).__name__} instead of a tensor of logits (N,K)",
            hint=f"wrap it in a module whose forward returns {field}",
        )
    if logits.dim() != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        raise BadModel(
            f"the model returns a tensor of shape {tuple(logits.shape)} for two images of shape {shape}; "
            "allowed is (2, K) with K of at least 2 classes",
            hint="return one logit per class and image; a single logit z of a binary classifier is the pair (0, z)",
        )
    if not logits.is_floating_point():
        raise BadModel(
            f"the model returns {logits.dtype} instead of floating logits",
            hint="return the logits, not the predicted labels",
        )
    if not bool(torch.isfinite(logits).all()):
        raise BadModel(
            "the model's logits for two smooth images are not all finite",
            hint="check that the weights were loaded and contain no NaN",
        )
    return int(logits.shape[1])
