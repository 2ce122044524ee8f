"""The loss of a net around its weights: planes of random directions that are scaled to the weights, filter by filter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.frozen import frozen


def filter_normalised(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A random direction for each weight tensor: Gaussian, every filter scaled to the length of the weights' own filter.

    A filter is a slice along the first axis: of a convolution what makes one output channel, of a linear layer a row.
    Tensors with one axis or none (biases, batch norms) stay where they are, and so do all buffers. The draws depend on the
    seed, the tensor's name and its shape: two nets of one architecture get the same ones before they are scaled.

    Source: Li et al., "Visualizing the loss landscape of neural nets" (NeurIPS 2018), section 4.

    Returns:
        name of the parameter -> direction, of its shape, dtype and device.
    """
    found = {}
    for name, weight in module.named_parameters():
        if weight.dim() < 2 or not weight.is_floating_point():
            found[name] = torch.zeros_like(weight)
            continue
        key = keys.fold(keys.fold(keys.root(seed), keys.number(name)), torch.arange(len(weight)))
        draw = keys.normal(key, weight.shape[1:], dtype=torch.float64).flatten(1)
        size = weight.detach().cpu().double().flatten(1).norm(dim=1, keepdim=True)
        found[name] = (draw * size / draw.norm(dim=1, keepdim=True)).view(weight.shape).to(weight)
    return found


def over_parameters(
    module: nn.Module,
    directions: tuple[dict[str, Tensor], dict[str, Tensor]],
    a: Sequence[float],
    b: Sequence[float],
    measure: Callable[[nn.Module], Tensor],
    step: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """``measure`` of the net whose weights are moved by a of the first and b of the second direction, (B, A, ...).

    The net is copied and the copy is moved, in evaluation mode: the net itself is not touched.
    """
    moving = copy.deepcopy(module)
    rest = {name: weight.detach().clone() for name, weight in moving.named_parameters()}
    first, second = directions
    seen = []
    with frozen(moving), torch.no_grad():
        for up in b:
            for along in a:
                for name, weight in moving.named_parameters():
                    weight.copy_(rest[name] + along * first[name] + up * second[name])
                seen.append(measure(moving))
                step(len(seen))
    return torch.stack(seen).unflatten(0, (len(b), len(a)))
