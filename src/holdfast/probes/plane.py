"""Lines and planes of images: where along a line a net first says something else, and what it says across a plane.

Points that leave the pixel box [0, 1] are no images. With ``clip`` every value stops at the ends of its range, so that
every point is one that a net may be shown; without, lines and planes are straight and the points are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.threats.threat import Threat, rows

Logits = Callable[[Tensor], Tensor]
"""Any number of images (n, C, H, W) -> logits (n, K), without gradients."""


class View(NamedTuple):
    """What a net says on a plane.

    Args:
        logits: (B, A, K), the first axis along v, the second along u.
        outside: (B, A), how much of each point's displacement lies outside [0, 1], as a share of its squared length.
    """

    logits: Tensor
    outside: Tensor


def random_directions(threat: Threat, key: Tensor, like: Tensor) -> Tensor:
    """A direction for each key (n,), like ``like`` (n, C, H, W): random signs in Linf, Gaussian in every other norm."""
    if threat.name == "linf":
        return (keys.uniform(key, like.shape[1:], dtype=like.dtype) < 0.5).to(like.dtype) * 2 - 1
    return keys.normal(key, like.shape[1:], dtype=like.dtype)


def across(v: Tensor, u: Tensor) -> Tensor:
    """The part of ``v`` that is orthogonal to ``u``, as long as ``u`` in L2, (n, C, H, W); u must not be zero."""
    flat, along = v.flatten(1).double(), u.flatten(1).double()
    length = along.norm(dim=1, keepdim=True)
    along = along / length
    rest = flat - (flat * along).sum(1, keepdim=True) * along
    return (rest * length / rest.norm(dim=1, keepdim=True)).to(v.dtype).view_as(v)


def sized(threat: Threat, direction: Tensor) -> Tensor:
    """Directions (n, C, H, W) with a length of eps in the norm of the threat; zero stays zero."""
    length = threat.distance(torch.zeros_like(direction), direction)
    return direction * rows(threat.eps / length.clamp_min(torch.finfo(length.dtype).tiny), direction)


def moved(x: Tensor, direction: Tensor, t: Tensor, *, clip: bool = True) -> Tensor:
    """x + t direction, row by row, t (n,)."""
    point = x + rows(t, x) * direction
    return point.clamp(0, 1) if clip else point


def first_change(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    direction: Tensor,
    *,
    far: float,
    coarse: int = 24,
    rounds: int = 10,
    clip: bool = True,
) -> Tensor:
    """How far along each direction the class is first another one than ``y``: t (n,) in [0, far], inf where it never is.

    ``coarse`` equally spaced points are looked at from the start on, and the interval before the first with another class
    is halved ``rounds`` times. The point at t has another class; what lies between two coarse points may be missed, so
    that t is an upper bound, too large by at most far / coarse / 2**rounds where the class changes once.

    Args:
        x, y, direction: starts (n, C, H, W), their classes (n,) and the directions (n, C, H, W).

    Raises:
        BadValue: ``far`` is not positive or ``coarse`` below 1.
    """
    if not far > 0 or coarse < 1:
        raise BadValue(f"far is {far!r} and coarse {coarse!r}; both must be positive", hint="far=4.0, coarse=24")

    def changed(places: Tensor, t: Tensor) -> Tensor:
        return logits(moved(x[places], direction[places], t, clip=clip)).argmax(1) != y[places]

    found = x.new_full((len(x),), math.inf)
    standing = torch.arange(len(x), device=x.device)
    for step in range(coarse + 1):
        here = changed(standing, x.new_full((len(standing),), far * step / coarse))
        found[standing[here]] = far * step / coarse
        standing = standing[~here]
        if not len(standing):
            break
    (ends,) = (torch.isfinite(found) & (found > 0)).nonzero(as_tuple=True)
    high = found[ends]
    low = high - far / coarse
    for _ in range(rounds if len(ends) else 0):
        middle = (low + high) / 2
        here = changed(ends, middle)
        low, high = torch.where(here, low, middle), torch.where(here, middle, high)
    found[ends] = high
    return found


def look(
    logits: Logits, x: Tensor, u: Tensor, v: Tensor, a: Sequence[float], b: Sequence[float], *, clip: bool = True
) -> View:
    """What a net says at x + a u + b v for all of ``a`` and ``b``; x, u, v (C, H, W)."""
    along, up = (torch.tensor(each, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1) for each in (a, b))
    change = (up[:, None] * v + along[None] * u).flatten(0, 1)
    point = x + change
    cut = point.clamp(0, 1)
    lost = (point - cut).flatten(1).square().sum(1)
    outside = lost / change.flatten(1).square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    said = logits(cut if clip else point)
    return View(said.view(len(b), len(a), -1), outside.view(len(b), len(a)))


def section(threat: Threat, u: Tensor, v: Tensor, num: int = 180) -> Tensor:
    """Where the plane of u and v (C, H, W) leaves the ball of the threat: the points (a, b) of its rim, (num + 1, 2).

    In L2, with u and v orthogonal and of length eps, the unit circle. In Linf a polygon: a square on its corner where all
    values of u and v are +-eps, for then the largest of |a u + b v| is (|a| + |b|) eps.
    """
    angle = torch.linspace(0, 2 * math.pi, num + 1, dtype=torch.float64, device=u.device)
    heading = torch.stack([angle.cos(), angle.sin()], 1)
    ray = (heading[:, :1] * u.double().flatten() + heading[:, 1:] * v.double().flatten()).view(-1, *u.shape)
    return heading * (threat.eps / threat.distance(torch.zeros_like(ray), ray))[:, None]


def spanned(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The plane through three images (3, C, H, W): orthonormal u and v (C, H, W), and the places (3, 2) of the images.

    The first image is the origin; u points to the second one. Places are in L2 of pixel values.

    Raises:
        BadValue: the images lie on one line.
    """
    first, second = (corners[1:] - corners[:1]).double().flatten(1)
    u = first / first.norm()
    rest = second - (second @ u) * u
    if not first.norm() > 0 or not rest.norm() > 1e-9 * second.norm():
        raise BadValue("the three images lie on one line", hint="give three different images")
    v = rest / rest.norm()
    places = corners.new_tensor([[0, 0], [float(first.norm()), 0], [float(second @ u), float(second @ v)]])
    shape = corners.shape[1:]
    return u.to(corners.dtype).view(shape), v.to(corners.dtype).view(shape), places
