"""Union: whatever one of several sets allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.threats.threat import Radius, Threat, rows

BALLS = ("linf", "l2", "l1")
"""The sets whose radius scales what they allow."""

PART = keys.number("part of a union")


@dataclass(frozen=True, init=False)
class Union(Threat):
    """The points of at least one of several norm balls, each cut with the pixel box: ``Union(Linf(0.03), L2(0.5))``.

    Source: Tramer and Boneh, "Adversarial training and robustness for multiple perturbations" (NeurIPS 2019), section 2.

    Args:
        sets: the balls at ``eps=1``, of positive radii.
        eps: scales all radii together: the unit of `distance` is each ball's own radius.

    Raises:
        BadValue: no set, one that is no norm ball or of radius 0, or a scale that a set refuses.
    """

    sets: tuple[Threat, ...]

    def __init__(self, *sets: Threat, eps: float | str = 1.0) -> None:
        if not sets:
            raise BadValue("a union of no sets", hint="for example Union(Linf(0.03), L2(0.5), L1(12))")
        for each in sets:
            if each.name not in BALLS or not each.eps > 0:
                raise BadValue(
                    f"{each!r} cannot be part of a union", hint=f"parts are of {', '.join(BALLS)}, with radii above 0"
                )
        super().__init__(eps)
        object.__setattr__(self, "sets", sets)
        _ = self.parts  # a scale that takes a radius out of its range is refused here

    @property
    def parts(self) -> tuple[Threat, ...]:
        """The balls at this scale."""
        return tuple(each.resized(self.eps * each.eps) for each in self.sets)

    def resized(self, eps: float) -> Union:
        return Union(*self.sets, eps=eps)

    def project(self, x0: Tensor, x: Tensor, *, radius: Radius | None = None) -> Tensor:
        """The nearest of the parts' nearest points."""
        scale = self._radius(radius, x0)
        found = torch.stack([each.project(x0, x, radius=scale * each.eps) for each in self.sets])
        nearest = (found - x).flatten(2).norm(dim=2).argmin(0)
        return chosen(found, nearest)

    def steepest(self, grad: Tensor) -> Tensor:
        """A radius along the steepest direction of the part along whose radius the loss rises most."""
        ways = torch.stack([each.eps * each.steepest(grad) for each in self.sets])
        return chosen(ways, (ways * grad).flatten(2).sum(2).argmax(0))

    def sample(self, x0: Tensor, key: Tensor, *, radius: Radius | None = None) -> Tensor:
        """A random point of a random part."""
        scale = self._radius(radius, x0)
        found = torch.stack([each.sample(x0, key, radius=scale * each.eps) for each in self.sets])
        return chosen(found, keys.integers(keys.fold(key, PART), (), len(self.sets)))

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """The smallest of the parts' distances, each in units of its own radius at ``eps=1``."""
        return torch.stack([each.distance(x0, x) / each.eps for each in self.sets]).amin(0)


def chosen(of: Tensor, which: Tensor) -> Tensor:
    """Row by row the one of P tensors, (P, R, ...), that ``which`` (R,) names: (R, ...)."""
    return of.gather(0, rows(which, of[0]).expand_as(of[0])[None])[0]


def parts(threat: Threat) -> tuple[Threat, ...]:
    """The parts of a union; any other set is its own only part."""
    return threat.parts if isinstance(threat, Union) else (threat,)
