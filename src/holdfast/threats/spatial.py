"""Spatial: the image may be turned and shifted."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat, rows

SHIFT = 3 / 28 / 30
"""How far the image may move for each degree that it may turn, in shares of its sides: 3 of 28 pixels at 30 degrees."""


@register
class Spatial(Threat):
    """The image may be turned by at most ``eps`` degrees and shifted along each side by a share that grows with ``eps``.

    Source: Engstrom et al., "Exploring the landscape of spatial robustness" (ICML 2019), section 3: at 30 degrees a shift of
    at most 10.7 % of the side, which is 3 of 28 pixels and 24 of 224. Departure: the share is the same for every size (the
    paper takes 3 of 32 pixels on CIFAR-10, 9.4 %).

    A point is three parameters (angle, shift to the right, shift down), (R, 3, 1, 1), all in degrees: one degree of shift is
    the share of the side that one more degree in ``eps`` allows. The set is thus an interval in each of the three. The image
    is turned about its centre (clockwise as it is shown), then shifted; it is interpolated bilinearly, and black comes in
    from outside.
    """

    unit = "deg"
    parametric = True

    def _check(self, eps: float) -> None:
        if eps > 180:
            raise BadValue(
                f"eps is {eps:g}, but no image can be turned by more than 180 degrees",
                hint='eps is the largest rotation in degrees, for example Spatial(30) or Spatial("30deg")',
            )

    def origin(self, x0: Tensor) -> Tensor:
        return x0.new_zeros(len(x0), 3, 1, 1)

    def render(self, x0: Tensor, x: Tensor) -> Tensor:
        # Coordinates and weights entry by entry: through affine_grid, a matrix product, a row's bits depend on the batch.
        height, width = x0.shape[2:]
        angle, right, down = x[:, :, :, 0].split(1, 1)
        angle = angle * (torch.pi / 180)
        i = torch.arange(height, dtype=x0.dtype, device=x0.device)[:, None] - (height - 1) / 2
        j = torch.arange(width, dtype=x0.dtype, device=x0.device)[None, :] - (width - 1) / 2
        u, v = j - right * (SHIFT * width), i - down * (SHIFT * height)
        cosine, sine = angle.cos(), angle.sin()
        column = cosine * u + sine * v + (width - 1) / 2
        row = cosine * v - sine * u + (height - 1) / 2
        return _sampled(x0, row, column).clamp(0, 1)

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        eps = rows(self._radius(radius, x), x)
        return torch.maximum(torch.minimum(x, eps), -eps)

    def steepest(self, grad: Tensor) -> Tensor:
        """The signs of the gradient: all three parameters move by the same share of what they may."""
        return grad.sign()

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Uniform in angle and shifts."""
        u = keys.uniform(key, (3, 1, 1), dtype=x0.dtype)
        return rows(self._radius(radius, x0), u) * (2 * u - 1)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """The largest of the three parameters: the smallest ``eps`` that allows them."""
        return x.abs().flatten(1).amax(1)


def _sampled(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The image (R, C, H, W) at fractional places, (R, H, W) each, interpolated bilinearly; 0 outside.

    At whole numbers, the pixels themselves: ``grid_sample`` takes coordinates in [-1, 1], which rounds.
    """
    height, width = image.shape[2:]
    top, left = row.detach().floor(), column.detach().floor()
    down, right = (row - top)[:, None], (column - left)[:, None]

    def at(i: Tensor, j: Tensor) -> Tensor:
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        place = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).long().flatten(1)
        pixels = image.flatten(2).gather(2, place[:, None].expand(-1, image.shape[1], -1)).view_as(image)
        return pixels * inside[:, None]

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down
