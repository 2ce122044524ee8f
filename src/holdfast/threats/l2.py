"""L2: the change as a whole may have a Euclidean length of at most eps."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat, room, rows, step_within


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
        inside = torch.minimum(size, limit).norm(dim=1) <= eps
        t = (eps / _norm(size)).clamp_max(1)
        while not inside.all():
            clipped = size * t[:, None] >= limit
            spent = limit.square().mul(clipped).sum(1)
            new = ((eps.square() - spent).clamp_min(0).sqrt() / _norm(size.masked_fill(clipped, 0))).clamp_max(1)
            if not ((new > t) & ~inside).any():
                break
            t = torch.maximum(t, new)
        moved = torch.minimum(size * t[:, None], limit)
        return torch.where(rows(inside, x0), x.clamp(0, 1), step_within(x0, moved.view_as(delta), delta))

    def steepest(self, grad: Tensor) -> Tensor:
        # Scaled by the largest entry first: the squares of gradients around 1e-30 would vanish in float32.
        scaled = grad / rows(grad.flatten(1).abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny), grad)
        return scaled / rows(scaled.flatten(1).norm(dim=1).clamp_min(1), grad)

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Uniform in the ball, then projected: uniform over the set wherever the ball does not leave the box."""
        direction = keys.normal(keys.fold(key, 0), x0.shape[1:], dtype=x0.dtype)
        # The largest of d uniform draws is distributed like one of them to the power 1 / d. Its bits do not depend on the
        # batch; those of torch's pow do (the last entries of a tensor take another path than the others).
        share = keys.uniform(keys.fold(key, 1), x0.shape[1:], dtype=x0.dtype).flatten(1).amax(1)
        length = self._radius(radius, x0) * share / direction.flatten(1).norm(dim=1)
        return self.project(x0, x0 + rows(length, x0) * direction, radius=radius)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        return (x - x0).flatten(1).norm(dim=1)


def _norm(size: Tensor) -> Tensor:
    """The length of each row, positive. Scaled by the largest entry: squares of huge or tiny ones leave float32's range."""
    largest = size.amax(1).clamp_min(torch.finfo(size.dtype).tiny)
    return largest * (size / largest[:, None]).norm(dim=1).clamp_min(1)
