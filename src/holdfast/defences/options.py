"""Checks of options that several defences share."""

from __future__ import annotations

from holdfast.foundation.errors import BadValue


def whole(name: str, value: int, least: int, most: int | None = None) -> None:
    """Refuses anything but a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise BadValue(f"{name} is {value!r}; it must be a whole number {allowed}", hint=f"for example {name}={least}")


def between(name: str, value: float, least: float, most: float, example: float) -> None:
    """Refuses NaN, ``least`` and what lies below, and what lies above ``most``."""
    if not least < value <= most:
        raise BadValue(
            f"{name} is {value!r}; it must be above {least:g}, at most {most:g}", hint=f"for example {name}={example:g}"
        )
