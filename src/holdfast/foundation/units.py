"""The only parser of radii and step sizes (``"8/255"``, ``0.5``, ``"2px"``, ``"10deg"``) and of times (``"60s"``)."""

from __future__ import annotations

import math
import re
import sys
from fractions import Fraction

from holdfast.foundation.errors import BadValue

_TIMES = {"min": 60, "s": 1, "h": 3600}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PATTERN = re.compile(rf"^\s*({_NUMBER})\s*(?:/\s*({_NUMBER}))?\s*(px|deg)?\s*$")


def parse(given: str | float | int, *, name: str = "eps", unit: str = "") -> float:
    """The number that ``given`` stands for.

    Args:
        given: a number, or text: a decimal (``"0.5"``), a fraction (``"8/255"``), or either with ``unit`` behind it.
        name: what the error calls the argument.
        unit: ``""`` (pixel values in [0, 1]), ``"px"`` or ``"deg"``. A bare number is always accepted.

    Returns:
        A finite, non-negative float, in ``unit``.

    Raises:
        BadValue: not a number, negative, not finite, a division by zero, or another unit than ``unit``.
    """
    examples = {"": "8/255 or 0.03", "px": "2px or 2", "deg": "10deg or 10"}[unit]
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise BadValue(f"{name} is {given!r}, which is not a number", hint=f"write it as {examples}")
    if isinstance(given, str):
        match = _PATTERN.match(given)
        if match is None:
            raise BadValue(f"{name} is {given!r}, which is not a number", hint=f"write it as {examples}")
        top, bottom, found = match.groups()
        if found and found != unit:
            allowed = f"in {unit}" if unit else "in pixel values, without a unit"
            raise BadValue(f"{name} is {given!r}; it is measured {allowed}", hint=f"write it as {examples}")
        # Huge exponents overflow a float and are refused below, instead of growing an integer of that many digits.
        value = float(top) if bottom is None else _divide(top, bottom)
    else:
        # Python refuses to turn an integer of that size into a float, or even into text.
        value = float(given) if abs(given) <= sys.float_info.max else math.inf
    if not math.isfinite(value):
        shown = repr(given)[:40] if isinstance(given, (str, float)) else "a huge integer"
        raise BadValue(f"{name} is {shown}, which is not a finite number", hint=f"write it as {examples}")
    if value < 0:
        raise BadValue(f"{name} is {given!r}; it must not be negative", hint=f"write it as {examples}")
    return value


def seconds(given: str | float | int, *, name: str = "budget") -> float:
    """A time in seconds: ``"60s"``, ``"5min"``, ``"1h"``, or a bare number.

    Raises:
        BadValue: not a positive time.
    """
    text = str(given).strip()
    unit = next((unit for unit in _TIMES if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * _TIMES.get(unit, 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadValue(f"{name} is {given!r}, which is no time", hint="write it as 60s, 5min or 1h")
    return value


def _divide(top: str, bottom: str) -> float:
    try:
        if "e" not in (top + bottom).lower():
            return float(Fraction(top) / Fraction(bottom))
        above, below = float(top), float(bottom)
        return above / below if math.isfinite(below) else math.nan  # else 1/1e400 would pass for 0
    except (ZeroDivisionError, OverflowError, ValueError):  # the last: more digits than Python converts
        return math.nan


def show(value: float) -> str:
    """``value`` the way people write radii: as a fraction of 255 where it is one, else as a short decimal."""
    levels = value * 255
    if not value or not math.isfinite(levels):
        return f"{value:.6g}"
    short = abs(value * 100 - round(value * 100)) <= 1e-6
    if abs(levels - round(levels)) < 1e-6 and round(levels) < 255 and not short:
        return f"{round(levels)}/255"
    return f"{value:.6g}"
