"""L0: at most eps pixels may change, each to any colour."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat


@register
class L0(Threat):
    """At most ``eps`` pixels may change, each to any colour. A pixel is a place: all its channels together.

    Source: Croce and Hein, "Sparse and imperceivable adversarial attacks" (ICCV 2019), section 2.
    """

    def _check(self, eps: float) -> None:
        if eps != round(eps):
            raise BadValue(
                f"eps is {eps:g}, but L0 counts pixels", hint="give a whole number of pixels, for example L0(10)"
            )

    def stride(self, steps: int, radii: float = 1.0) -> float:
        """Always 1, from any colour to the corner of the colour cube: the radius counts pixels and bounds no colour."""
        return 1.0

    def _keep(self, gain: Tensor, radius: Radius | None) -> Tensor:
        """(R, 1, H, W) bool: the pixels with the largest gains, as many as the radius allows. ``gain`` is (R, H, W)."""
        count = self._radius(radius, gain).round().long()
        # A stable sort breaks ties by place, on every device and at every batch size.
        order = gain.flatten(1).sort(dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        return (rank < count[:, None]).view(len(gain), 1, *gain.shape[1:])

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Keeps the pixels whose clipped change saves most of the squared distance to ``x``."""
        boxed = x.clamp(0, 1)
        # |x - x0|^2 - |x - boxed|^2 as a product: the difference of the squares loses all digits where x is far outside.
        saved = ((boxed - x0) * ((x - x0) + (x - boxed))).sum(1)
        return torch.where(self._keep(saved, radius), boxed, x0)

    def steepest(self, grad: Tensor) -> Tensor:
        """The signs of the gradient at the ``eps`` pixels where its absolute values add up to most.

        A step of length 1 takes those pixels from any colour to the corner of the colour cube.
        """
        return grad.sign() * self._keep(grad.abs().sum(1), None)

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Random pixels, as many as the radius allows, with colours uniform in [0, 1]."""
        places = keys.uniform(keys.fold(key, 0), x0.shape[2:], dtype=x0.dtype)
        colours = keys.uniform(keys.fold(key, 1), x0.shape[1:], dtype=x0.dtype)
        return torch.where(self._keep(places, radius), colours, x0)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        return (x != x0).any(1).flatten(1).sum(1).to(x0.dtype)
