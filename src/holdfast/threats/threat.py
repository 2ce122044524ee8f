"""What every threat set offers, and the arithmetic that the norm balls share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import name_of

Radius = float | Tensor
"""A radius for all rows, or one per row, (R,)."""


@dataclass(frozen=True)
class Threat(ABC):
    """The set S(x0) of images an adversary may turn x0 into: a norm ball around x0, cut with the pixel box [0, 1].

    Images are (R, C, H, W) floats in [0, 1]. The points of a set are images, but for sets of transformations
    (``parametric``): their points are parameters, (R, P, 1, 1), which `render` turns into images. Every method works row by
    row: no row depends on its neighbours. Where a method takes ``radius``, it stands in for ``eps``: one number, or one per
    row, (R,).

    Args:
        eps: the radius, as a number or as text (``"8/255"``).

    Raises:
        BadValue: ``eps`` is no number, is negative, or is larger than any two images can differ.
    """

    unit: ClassVar[str] = ""
    """The unit that a radius may be written with (see `holdfast.foundation.units.parse`)."""
    parametric: ClassVar[bool] = False
    """Whether points are parameters of a transformation: then no `distance` can be read off an image."""

    eps: float

    def __init__(self, eps: float | str) -> None:
        value = units.parse(eps, name="eps", unit=self.unit)
        self._check(value)
        object.__setattr__(self, "eps", value)

    def _check(self, eps: float) -> None:  # noqa: B027 - a set without a largest radius has nothing to add
        """Refuses radii that make no sense in this norm."""

    @property
    def name(self) -> str:
        """The registry name."""
        return name_of(self)

    def stride(self, steps: int, radii: float = 1.0) -> float:
        """The length of each of ``steps`` equal steps along `steepest` that together cover ``radii`` radii."""
        return radii * self.eps / steps

    def resized(self, eps: float) -> Threat:
        """The same set with another radius."""
        return type(self)(eps)

    def origin(self, x0: Tensor) -> Tensor:
        """The point that stands for the clean images themselves: ``x0``, unless points are parameters."""
        return x0

    def render(self, x0: Tensor, x: Tensor) -> Tensor:
        """The images (R, C, H, W) in [0, 1] that the points ``x`` of S(x0) stand for: ``x`` itself, unless points are
        parameters. Differentiable in ``x``; `origin` gives ``x0`` to the last bit."""
        return x

    @abstractmethod
    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The point of S(x0) nearest to ``x`` in the Euclidean distance, exactly: ball and pixel box together."""

    @abstractmethod
    def steepest(self, grad: Tensor) -> Tensor:
        """The direction of unit length, in the set's norm, in which a loss with gradient ``grad`` rises fastest.

        A row whose gradient is zero gets the zero direction.
        """

    @abstractmethod
    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """A random point of S(x0) for each key, (R,)."""

    @abstractmethod
    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """How far ``x`` lies from ``x0`` in the set's norm, (R,)."""

    def _radius(self, radius: Radius | None, like: Tensor) -> Tensor:
        """The radius as (R,), in the dtype and on the device of ``like``."""
        value = self.eps if radius is None else radius
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(len(like))


def rows(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, (R,), shaped so that it broadcasts over ``like``, (R, ...)."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def room(x0: Tensor, delta: Tensor) -> Tensor:
    """How far each pixel may move from x0 in the direction of ``delta`` before it leaves [0, 1]."""
    return torch.where(delta > 0, 1 - x0, x0).clamp_min(0)


def step_within(x0: Tensor, moved: Tensor, delta: Tensor) -> Tensor:
    """``x0`` moved by ``moved >= 0`` in the direction of ``delta``, inside [0, 1], every pixel rounded towards x0.

    Rounding to the nearest adds the same error to thousands of pixels: together it takes the point out of the ball.
    """
    x = (x0 + moved * delta.sign()).clamp(0, 1)
    return torch.where((x - x0).abs() > moved, torch.nextafter(x, x0), x)


def check_at_most(eps: float, limit: float, norm: str, meaning: str) -> None:
    """Refuses a radius beyond ``limit``: nearly always it was meant in pixel levels, 0 to 255."""
    if eps > limit:
        raise BadValue(
            f"eps is {eps:g}, but {meaning}",
            hint=f'pixels lie in [0, 1]; for 8 pixel levels write "8/255", for example {norm}("8/255")',
        )


def check_threat(given: object) -> None:
    """Refuses what is no threat set: a radius alone, a name, or a class without its radius.

    Raises:
        BadValue: it is none.
    """
    if isinstance(given, Threat):
        return
    is_kind = isinstance(given, type) and issubclass(given, Threat)
    radius = given if isinstance(given, float) else '"8/255"'
    raise BadValue(
        f"threat is {f'the class {given.__name__}' if is_kind else repr(given)}; a threat set with its radius is needed",
        hint=f"threat=holdfast.{given.__name__ if is_kind else 'Linf'}({radius})",
    )
