"""Checks of options that several objectives share."""

from __future__ import annotations

import math

from holdfast.ascent.attack import Attack
from holdfast.ascent.steepest import SteepestAttack
from holdfast.foundation.errors import BadValue


def weight(name: str, value: float) -> None:
    """Refuses numbers that are negative or not finite."""
    if not 0 <= value < math.inf:
        raise BadValue(f"{name} is {value!r}; it must not be negative", hint=f"for example {name}=1.0")


def share(name: str, value: float) -> None:
    """Refuses numbers outside [0, 1]."""
    if not 0 <= value <= 1:
        raise BadValue(f"{name} is {value!r}; it is a share, from 0 to 1", hint=f"for example {name}=0.5")


def positive(name: str, value: float) -> None:
    """Refuses numbers that are not positive, or not finite."""
    if not 0 < value < math.inf:
        raise BadValue(f"{name} is {value!r}; it must be positive", hint=f"for example {name}=1.0")


def at_least_one(name: str, value: int) -> None:
    """Refuses anything but a whole number from 1 upwards."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadValue(f"{name} is {value!r}; it must be a whole number, at least 1", hint=f"for example {name}=10")


def climbs(attack: Attack) -> None:
    """Refuses attacks that have a loss of their own and can climb no other."""
    if not isinstance(attack, SteepestAttack):
        raise BadValue(
            f"{type(attack).__name__} climbs a loss of its own; this objective brings another one",
            hint="use an attack that is a plain steepest ascent: pgd, fgsm, rs_fgsm, n_fgsm, bim or mim",
        )
