"""Step rules: which share of the first step's length a later step has."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from holdfast.foundation.registry import pick

Schedule = Callable[[Tensor, int], Tensor | float]
"""(steps taken (R,), all steps) -> share of the first step's length, (R,) or one number."""


def constant(count: Tensor, steps: int) -> float:
    """Every step has the same length (Madry et al. 2018)."""
    return 1.0


def linear(count: Tensor, steps: int) -> Tensor:
    """The length falls linearly and would reach 0 after the last step."""
    return 1 - count / steps


def cosine(count: Tensor, steps: int) -> Tensor:
    """The length falls along half a cosine and would reach 0 after the last step."""
    return (1 + (math.pi * count / steps).cos()) / 2


SCHEDULES: dict[str, Schedule] = {schedule.__name__: schedule for schedule in (constant, linear, cosine)}


def named(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        UnknownName: no schedule has it.
    """
    return pick("schedule", name, SCHEDULES)
