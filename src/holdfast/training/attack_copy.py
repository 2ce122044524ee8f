"""The net under training as its inner attack sees it: the same answers in evaluation mode, for less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier
from holdfast.ascent.rounded import lowered
from holdfast.ascent.search_copy import TOLERANCE, furthest, merged, search_copy


class AttackCopy:
    """A `holdfast.ascent.search_copy` of a net whose weights change: made once, then only the numbers in it are renewed.

    Batch norms are folded into the layers before them (exact in evaluation mode), convolutions run channels-last where
    that pays, and no parameter asks for a gradient. How the copy is built is decided here, on ``x``, and stays; what is
    in it is a function of the net's parameters and buffers alone, to the last bit, however often it was renewed. A run
    that goes on from a checkpoint builds it before the weights are loaded, so that the same is decided.

    Args:
        net: images (N,C,H,W) in [0,1] -> logits (N,K), in any mode; it is not changed.
        x: a few dozen images to compare both on.
        dtype: what the copy computes in, ``torch.bfloat16`` say; images, logits and gradients keep theirs. The net's own
            where left out, and where this one changes the logits by more than its rounding.

    ``folded``: the batch norms that were folded; ``channels_last``: whether its convolutions are; ``dtype``: what it
    computes in; ``reason``: why not more was done, or empty; ``tolerance``: the largest `difference` that is rounding.
    """

    def __init__(self, net: nn.Module, x: Tensor, *, dtype: torch.dtype | None = None) -> None:
        found = search_copy(net, x)
        self.net, self._folds = net, found.folds
        self.folded, self.channels_last, self.reason = found.folded, found.channels_last, found.reason
        own = found.module if isinstance(found.module, nn.Module) else net
        self._take(own, x.dtype, own)
        if dtype is None or dtype == x.dtype or own is net or not len(x):
            return
        low = lowered(own, x, dtype)
        if low.module is not None:
            self._take(low.module.module, dtype, low.module)
        self.reason = "; ".join(filter(None, (self.reason, low.reason)))

    def _take(self, module: nn.Module, dtype: torch.dtype, called: Classifier) -> None:
        """Makes ``module``, called as ``called``, the copy."""
        self._module, self._called = module, called
        self.dtype, self.tolerance = dtype, TOLERANCE.get(dtype, 0.0)
        known = _tensors(self.net)  # what it does not know is of a folded layer, or a constant of the forward pass
        self._same = {} if module is self.net else {k: v for k, v in _tensors(module).items() if k in known}

    @torch.no_grad()
    def refreshed(self) -> Classifier:
        """The copy, with what the net's weights are now; the net itself where there is no copy."""
        if self._same:
            originals = _tensors(self.net)
            torch._foreach_copy_(list(self._same.values()), [originals[name] for name in self._same])
        for fold in self._folds:
            layer = self._module.get_submodule(fold.name)
            weight, bias = merged(self.net.get_submodule(fold.layer), self.net.get_submodule(fold.norm))
            layer.weight.copy_(weight)  # pyrefly: ignore
            layer.bias.copy_(bias)  # pyrefly: ignore
        return self._called

    @torch.no_grad()
    def difference(self, x: Tensor) -> float:
        """The largest difference of a logit on ``x`` between copy and net now, in units of the spread of the image's logits.

        More than `tolerance` means that training changed something that is no parameter and no buffer: use the net.
        """
        with frozen(self.net), rng_kept(x.device):
            return furthest(self.net(x), self.refreshed()(x))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
