"""L1: the absolute changes of all pixel values may add up to at most eps."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat, room, rows, step_within

_ROUNDS = 100
"""More than bisection needs to exhaust the digits of float64."""


@register
class L1(Threat):
    """The absolute changes of all pixel values may add up to at most ``eps``.

    Source: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks" (ICML 2021).
    """

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The nearest point of ball and box together (Croce and Hein 2021, proposition 2.1).

        With d = x - x0 and c the room of each pixel in d's direction, the answer is x0 + sign(d) clip(|d| - s, 0, c) for
        the s >= 0 at which its length is eps. The length falls with s and is piecewise linear: Newton's steps, kept between
        an s that is too small and one that is too large, find its segment without sorting. A row that has arrived stays.
        """
        eps = self._radius(radius, x0)
        delta = x - x0
        size, limit = delta.flatten(1).abs(), room(x0, delta).flatten(1)
        inside = torch.minimum(size, limit).sum(1) <= eps
        boxed = x.clamp(0, 1)
        if inside.all():
            return boxed
        size = _drawn_together(size)
        low, high = torch.zeros_like(eps), size.amax(1)
        s, searching = low, ~inside
        slack = 4 * torch.finfo(x0.dtype).eps * eps
        for _ in range(_ROUNDS):
            over = (size - s[:, None]).clamp_min(0)
            excess = torch.minimum(over, limit).sum(1) - eps
            moving = ((over > 0) & (over < limit)).sum(1)
            searching = searching & (excess.abs() > slack)
            low = torch.where(searching & (excess > 0), s, low)
            high = torch.where(searching & (excess < 0), s, high)
            new = s + excess / moving.clamp_min(1)
            new = torch.where((moving > 0) & (new > low) & (new < high), new, (low + high) / 2)
            searching = searching & (new != s) & (high > low)
            if not searching.any():
                break
            s = torch.where(searching, new, s)
        moved = torch.minimum((size - s[:, None]).clamp_min(0), limit)
        # Rounding can still leave the sum a few ulps above eps; scaling by that much keeps every pixel in the box.
        moved = moved * (eps / moved.sum(1).clamp_min(torch.finfo(x0.dtype).tiny)).clamp_max(1)[:, None]
        return torch.where(rows(inside, x0), boxed, step_within(x0, moved.view_as(delta), delta))

    def steepest(self, grad: Tensor) -> Tensor:
        """The signs of the 1 % of pixel values with the largest gradients, together of length 1.

        The exact steepest direction moves one value alone and needs thousands of steps; moving the largest few at once is
        that of Tramer and Boneh, "Adversarial training and robustness for multiple perturbations" (NeurIPS 2019), SLIDE.
        """
        return self.sparse(grad, torch.full((len(grad),), max(1.0, 0.01 * grad[0].numel()) if len(grad) else 1.0))

    def sparse(self, grad: Tensor, count: Tensor) -> Tensor:
        """The signs of the ``count`` (R,) values with the largest gradients in each row, together of length 1."""
        size = grad.flatten(1).abs()
        ranked = size.sort(dim=1, descending=True).values
        place = count.to(grad.device).ceil().long().clamp(1, size.shape[1]).sub(1)[:, None]
        chosen = (size >= ranked.gather(1, place)) & (size > 0)
        return (grad.flatten(1).sign() * chosen / chosen.sum(1, keepdim=True).clamp_min(1)).view_as(grad)

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Uniform in the ball, then projected: uniform over the set wherever the ball does not leave the box."""
        shape = x0.shape[1:]
        # d + 1 exponential draws, normalised, are uniform on the simplex; dropping one makes them uniform in the ball.
        parts = -torch.log1p(-keys.uniform(keys.fold(key, 0), (shape.numel() + 1,), dtype=torch.float64))
        parts = (parts[:, :-1] / parts.sum(1, keepdim=True)).to(x0.dtype).view(len(key), *shape)
        signs = torch.where(keys.uniform(keys.fold(key, 1), shape) < 0.5, -1.0, 1.0).to(x0.dtype)
        return self.project(x0, x0 + rows(self._radius(radius, x0), x0) * parts * signs, radius=radius)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        return (x - x0).flatten(1).abs().sum(1)


def _drawn_together(size: Tensor) -> Tensor:
    """The sizes, with gaps above 1 between neighbours in their order cut to 1, in rows that have sizes above 100.

    No pixel has more room than 1: of two sizes further apart, the larger one's pixel is full before the other's moves, so
    that the projection is the same. Between huge sizes the room itself would be lost in rounding.
    """
    wide = size.amax(1) > 100
    if not wide.any():
        return size
    ordered, order = size.sort(dim=1)
    gaps = torch.cat([ordered[:, :1], ordered.diff(dim=1)], 1).clamp_max(1)
    return torch.where(wide[:, None], torch.empty_like(size).scatter_(1, order, gaps.cumsum(1)), size)
