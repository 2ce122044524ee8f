"""Checks of options that several attacks share."""

from __future__ import annotations

from holdfast.ascent.attack import RANKED
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue


def at_least_one(name: str, value: int) -> None:
    """Refuses anything but a whole number from 1 upwards."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadValue(f"{name} is {value!r}; it must be a whole number, at least 1", hint=f"for example {name}=10")


def number_of_targets(value: int) -> None:
    """Refuses anything but a whole number from 0 to the length of a ranking."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= RANKED:
        raise BadValue(
            f"targets is {value!r}; it must be a whole number from 0 to {RANKED}", hint="AutoAttack uses targets=9"
        )


def positive(name: str, value: float) -> None:
    """Refuses numbers that are not positive."""
    if not value > 0:
        raise BadValue(f"{name} is {value!r}; it must be positive", hint=f"for example {name}=1.0")


def step_size(given: float | str | None, default: float) -> float:
    """The length of a step: the given one, parsed, or the default."""
    return default if given is None else units.parse(given, name="step_size")
