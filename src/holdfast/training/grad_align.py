"""GradAlign: keeps the loss around an image as straight as a single step takes it to be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast import keys
from holdfast.objectives.objective import Examples
from holdfast.threats.threat import Threat

_NOISE = keys.number("gradient alignment")


def misalignment(net: nn.Module, batch: Examples, threat: Threat) -> Tensor:
    """``1 - cos(g(x), g(x + u))``, the mean over the batch, with a gradient in the weights; g is the input gradient of the
    cross-entropy, u uniform in the set.

    Source: Andriushchenko and Flammarion, "Understanding and improving fast adversarial training" (NeurIPS 2020),
    equation 5. Both gradients are differentiated.

    Args:
        net: in train mode; it must be twice differentiable.
        batch: the clean images.
        threat: the set of the noise.
    """
    grads = []
    for x in (batch.x, threat.sample(batch.x, keys.fold(batch.key, _NOISE))):
        at = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(net(at), batch.y, reduction="sum"), at, create_graph=True)
        grads.append(grad.flatten(1))
    return 1 - F.cosine_similarity(*grads, dim=1).mean()
