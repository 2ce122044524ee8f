"""L2: the change as a whole may have a Euclidean length of at most eps."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat, room, rows


@register
class L2(Threat):
    """The change as a whole may have a Euclidean length of at most ``eps``.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 4.
    """

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The nearest point of ball and box together.

        With d = x - x0 and c the room of each pixel in d's direction, the answer is x0 + sign(d) min(t |d|, c) for the
        t at which its length is eps (the optimality conditions; t = 1 / (1 + multiplier)). The clipped pixels at a t
        that is too small are clipped at the answer too, so solving for t with the clipped pixels held fixed, and
        clipping again, rises to the exact t in finitely many rounds; a row that has arrived stays where it is.
        """
        eps = self._radius(radius, x0)
        delta = x - x0
        size, limit = delta.flatten(1).abs(), room(x0, delta).flatten(1)
        moved = torch.minimum(size, limit)
        inside = moved.norm(dim=1) <= eps
        t = (eps / size.norm(dim=1).clamp_min(torch.finfo(x0.dtype).tiny)).clamp_max(1)
        while not inside.all():
            clipped = size * t[:, None] >= limit
            spent = limit.square().mul(clipped).sum(1)
            free = size.square().mul(~clipped).sum(1).clamp_min(torch.finfo(x0.dtype).tiny)
            new = ((eps.square() - spent).clamp_min(0) / free).sqrt().clamp_max(1)
            if not ((new > t) & ~inside).any():
                break
            t = torch.maximum(t, new)
        moved = torch.where(inside[:, None], moved, torch.minimum(size * t[:, None], limit))
        return (x0 + moved.view_as(delta) * delta.sign()).clamp(0, 1)

    def steepest(self, grad: Tensor) -> Tensor:
        # Scaled by the largest entry first: the squares of gradients around 1e-30 would vanish in float32.
        scaled = grad / rows(grad.flatten(1).abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny), grad)
        return scaled / rows(scaled.flatten(1).norm(dim=1).clamp_min(1), grad)

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Uniform in the ball, then projected: uniform over the set wherever the ball does not leave the box."""
        direction = keys.normal(keys.fold(key, 0), x0.shape[1:], dtype=x0.dtype)
        share = keys.uniform(keys.fold(key, 1), (), dtype=x0.dtype) ** (1 / x0[0].numel()) if len(x0) else key.to(x0)
        length = self._radius(radius, x0) * share / direction.flatten(1).norm(dim=1)
        return self.project(x0, x0 + rows(length, x0) * direction, radius=radius)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        return (x - x0).flatten(1).norm(dim=1)
