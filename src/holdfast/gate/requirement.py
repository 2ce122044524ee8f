"""``"robust_accuracy at 4/255 >= 0.45"``: a figure, a comparison, a number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.foundation import units
from holdfast.foundation.errors import BadValue

_ROUNDING = 1e-9  # of a mean of shares; a figure that equals what is asked for meets it
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, wanted: value >= wanted - _ROUNDING,
    "<=": lambda value, wanted: value <= wanted + _ROUNDING,
    ">": lambda value, wanted: value > wanted + _ROUNDING,
    "<": lambda value, wanted: value < wanted - _ROUNDING,
}
_PATTERN = re.compile(
    r"^\s*([A-Za-z_]+)(?:\s+at\s+([^<>=]+?))?\s*(>=|<=|>|<)\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*(%?)\s*$", re.I
)


@dataclass(frozen=True)
class Requirement:
    """What a figure must be.

    Args:
        asked: the text that it was asked for by.
        measure: the figure's name, in lower case.
        eps: the radius; None for the headline, or a figure without one.
        sign: ``>=``, ``<=``, ``>`` or ``<``.
        wanted: a share, a difference of shares, or a ratio: 0.45, not 45.
    """

    asked: str
    measure: str
    eps: float | None
    sign: str
    wanted: float

    def met(self, value: float) -> bool:
        """Whether this value would do. NaN never does."""
        return _COMPARE[self.sign](value, self.wanted)

    @property
    def upwards(self) -> bool:
        """Whether larger is what is asked for."""
        return self.sign in (">=", ">")


def requirement(text: str) -> Requirement:
    """Reads a requirement. ``45 %`` is 0.45.

    Raises:
        BadValue: it is none.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise BadValue(
            f"{text!r} is no requirement",
            hint='write "robust_accuracy >= 0.45" or "robust_accuracy at 4/255 >= 0.6", in quotes',
        )
    name, radius, sign, number, percent = match.groups()
    try:
        wanted = float(number) / (100 if percent else 1)
    except ValueError:
        wanted = math.nan
    if not math.isfinite(wanted):
        raise BadValue(f"{number} in {text!r} is no number", hint="write 0.45, or 45 %")
    eps = None if radius is None else units.parse(radius.strip(), name=f"the radius in {text!r}")
    return Requirement(" ".join(text.split()), name.lower(), eps, sign, wanted)
