"""Patch: one square of the image may be painted over, in any colours."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.threats.threat import Radius, Threat, rows


@register
class Patch(Threat):
    """One square of ``eps`` by ``eps`` pixels, at any place, may be painted over in any colours.

    Source: Brown et al., "Adversarial patch" (2017), and, for a patch of one image, Karmon, Zoran and Goldberg, "LaVAN:
    localized and visible adversarial noise" (ICML 2018), section 3. The square lies inside the image; where it is larger
    than a side, it takes all of that side.
    """

    unit = "px"

    def _check(self, eps: float) -> None:
        if eps != round(eps):
            raise BadValue(
                f"eps is {eps:g}, but Patch takes the side of a square in pixels",
                hint='give a whole number of pixels, for example Patch(5) or Patch("5px")',
            )

    def stride(self, steps: int, radii: float = 1.0) -> float:
        """Always 1, from any colour to the corner of the colour cube: the radius is a side and bounds no colour."""
        return 1.0

    def largest(self, gain: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The window whose gains add up to most, (R, 1, H, W) bool; of equals the first. ``gain``, (R, H, W), is >= 0."""
        count, height, width = gain.shape
        side = self._radius(radius, gain).round().long()
        high, wide = side.clamp_max(height), side.clamp_max(width)
        # Sums over windows are differences of cumulative sums. In float64: a huge gain would drown the others in float32.
        total = gain.new_zeros(count, height + 1, width + 1, dtype=torch.float64)
        total[:, 1:, 1:] = gain.double().cumsum(1).cumsum(2)
        below = torch.arange(height, device=gain.device)[None, :] + high[:, None]
        right = torch.arange(width, device=gain.device)[None, :] + wide[:, None]
        fits = (below <= height)[:, :, None] & (right <= width)[:, None, :]
        rise = total.gather(1, below.clamp_max(height)[:, :, None].expand(-1, -1, width + 1)) - total[:, :-1]
        ends = right.clamp_max(width)[:, None, :].expand(-1, height, -1)
        score = (rise.gather(2, ends) - rise[:, :, :-1]).masked_fill(~fits, -1).flatten(1)
        place = torch.arange(height * width, device=gain.device)
        first = torch.where(score == score.amax(1, keepdim=True), place, height * width).amin(1)
        return self.window(first // width, first % width, gain, radius=radius)

    def window(self, top: Tensor, left: Tensor, like: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The pixels of the window with this upper left corner, (R,) each: (R, 1, H, W) bool; ``like`` is (R, ..., H, W)."""
        side = self._radius(radius, like).round().long()
        top, left, side = (value.view(-1, 1, 1, 1) for value in (top, left, side))
        i = torch.arange(like.shape[-2], device=like.device).view(1, 1, -1, 1)
        j = torch.arange(like.shape[-1], device=like.device).view(1, 1, 1, -1)
        return (i >= top) & (i < top + side) & (j >= left) & (j < left + side)

    def anywhere(self, key: Tensor, like: Tensor, *, radius: Radius | None = None) -> Tensor:
        """A random window for each key, all places alike: (R, 1, H, W) bool; ``like`` is (R, ..., H, W)."""
        side = self._radius(radius, like).round().long()
        u = keys.uniform(key, (2,), dtype=torch.float64)
        # A window of no pixels lies anywhere.
        places = [(size - side).clamp_min(0) + 1 for size in like.shape[-2:]]
        top, left = ((u[:, axis] * count).long() for axis, count in enumerate(places))
        return self.window(top, left, like, radius=radius)

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """Keeps the window whose clipped change saves most of the squared distance to ``x``."""
        boxed = x.clamp(0, 1)
        # |x - x0|^2 - |x - boxed|^2 as a product: the difference of the squares loses all digits where x is far outside.
        far = x.double()
        saved = ((boxed - x0).double() * ((far - x0) + (far - boxed))).sum(1)
        # A change that fits is kept whole: next to a large one the sums above do not see a tiny one.
        inside = self.distance(x0, boxed) <= self._radius(radius, x0)
        return torch.where(rows(inside, x0) | self.largest(saved, radius=radius), boxed, x0)

    def steepest(self, grad: Tensor) -> Tensor:
        """The signs of the gradient in the window where its absolute values add up to most.

        A step of length 1 takes its pixels from any colour to the corner of the colour cube.
        """
        return grad.sign() * self.largest(grad.double().abs().sum(1))

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """A random window with colours uniform in [0, 1]."""
        window = self.anywhere(keys.fold(key, 0), x0, radius=radius)
        colours = keys.uniform(keys.fold(key, 1), x0.shape[1:], dtype=x0.dtype)
        return torch.where(window, colours, x0)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """The side of the smallest square that covers all changes."""
        changed = (x != x0).any(1)
        return torch.maximum(_extent(changed.any(2)), _extent(changed.any(1))).to(x0.dtype)


def _extent(changed: Tensor) -> Tensor:
    """From the first to the last True of each row, both counted; 0 where there is none. ``changed`` is (R, L)."""
    place = torch.arange(1, changed.shape[1] + 1, device=changed.device)
    last = torch.where(changed, place, 0).amax(1)
    first = torch.where(changed, place, changed.shape[1] + 1).amin(1)
    return (last - first + 1).clamp_min(0)
