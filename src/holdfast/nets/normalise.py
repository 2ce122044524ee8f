"""The normalisation that a network was trained behind, as a module in front of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.foundation.errors import BadValue


class Normalise(nn.Module):
    """``(images - mean) / std``, channel by channel, so that the model as a whole takes images in [0,1].

    Args:
        mean: one number per channel, or a single one for all channels.
        std: the same for the divisor; finite and not zero.

    ``mean`` and ``std`` are float32 buffers (1,C,1,1): they travel with the device, the dtype and the state dict.

    Raises:
        BadValue: empty, of different lengths, not finite, or a divisor that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = [float(value) for value in mean], [float(value) for value in std]
        hint = "give one mean and one standard deviation per channel, e.g. 0.1307/0.3081"
        if not means or len(means) != len(stds):
            raise BadValue(f"a normalisation has {len(means)} means and {len(stds)} standard deviations", hint=hint)
        shape = (1, len(means), 1, 1)
        self.register_buffer("mean", torch.tensor(means, dtype=torch.float32).view(shape))
        self.register_buffer("std", torch.tensor(stds, dtype=torch.float32).view(shape))
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.std).all() and (self.std > 0).all()):
            raise BadValue(f"a normalisation has mean {means} and standard deviation {stds}", hint=hint)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def in_front(mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The first layer of a net: ``Normalise(mean, std)``, or the identity, without buffers, where both are None.

    Raises:
        BadValue: only one of the two is given, or `Normalise` refuses them.
    """
    if mean is None and std is None:
        return nn.Identity()
    return Normalise(() if mean is None else mean, () if std is None else std)
