"""What a net makes of an image on the way to its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.foundation.errors import BadModel, UnknownName

BATCH = 256


@dataclass(frozen=True)
class Features:
    """Logits and features of images, from one forward.

    Args:
        core: the net; it is hooked during a call only.
        layer: the submodule whose output is taken, by the name that ``named_modules`` gives it; None: the input of the last
            linear layer.
    """

    core: nn.Module
    layer: str | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (N, K) and the features (N, D); of maps (N, C, H, W) the mean over the pixels, else flat.

        Raises:
            UnknownName: no such layer.
            BadModel: no linear layer, or one that is not called once with a tensor.
        """
        seen: list[Tensor] = []
        if self.layer is None:
            handle = self._last().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        else:
            layers = {name: layer for name, layer in self.core.named_modules() if name}
            if self.layer not in layers:
                raise UnknownName.among("layer", self.layer, layers)
            handle = layers[self.layer].register_forward_hook(lambda _, inputs, output: seen.append(output))
        try:
            logits = self.core(x)
        finally:
            handle.remove()
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or len(seen[0]) != len(x):
            raise BadModel(
                f"the layer {self.layer or 'before the last linear one'} gave {len(seen)} outputs, and one tensor is needed",
                hint="name a layer that a forward calls once, and whose output has one row for each image",
            )
        (found,) = seen
        return logits, found.mean((2, 3)) if found.dim() == 4 else found.flatten(1)

    def of(self, x: Tensor) -> Tensor:
        """The features of many images without a gradient, (M, D)."""
        with torch.no_grad():
            return torch.cat([self(part)[1] for part in x.split(BATCH)])

    def _last(self) -> nn.Linear:
        found = [layer for layer in self.core.modules() if isinstance(layer, nn.Linear)]
        if not found:
            raise BadModel("the model has no linear layer", hint="name a layer: layer='...'")
        return found[-1]
