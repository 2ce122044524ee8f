"""How a report says numbers: shares, intervals, counts, radii and the headline sentence."""

from __future__ import annotations

import json
from typing import Any

from holdfast.foundation import units
from holdfast.records.schema import Rate, Summary

_NBSP = "\N{NO-BREAK SPACE}"
_THIN = "\N{NARROW NO-BREAK SPACE}"


def share(value: float) -> str:
    """A share in per cent, without the sign. Only a whole is called 100.0 and only nothing 0.0."""
    short = f"{100 * value:.1f}"
    if (short == "100.0" and value < 1) or (short == "0.0" and value > 0):
        return f"{100 * value:.2f}"
    return short


def percent(value: float) -> str:
    """A share in per cent: ``97.8 %``."""
    return f"{share(value)}{_NBSP}%"


def interval(rate: Rate) -> str:
    """The 95 % interval of a rate: ``36.9–45.6 %``."""
    return f"{share(rate.low)}–{share(rate.high)}{_NBSP}%"


def count(number: int) -> str:
    """A whole number in groups of three digits; four digits stand together."""
    return str(number) if abs(number) < 10_000 else f"{number:,}".replace(",", _THIN)


def images(number: int) -> str:
    """``1 test image``, ``500 test images``."""
    return f"{count(number)} test image{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Wall time in the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f}{_NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NBSP}min {rest}{_NBSP}s"
    return f"{minutes // 60}{_NBSP}h {minutes % 60}{_NBSP}min"


def in_levels(radii: tuple[float, ...]) -> bool:
    """Whether people write these radii in units of 1/255."""
    return any(radii) and all("/255" in units.show(eps) for eps in radii if eps)


def distance(value: float, *, levels: bool) -> str:
    """A measured distance, in the unit the radii of its run are written in."""
    return f"{value * 255:.3g}/255" if levels else f"{value:.3g}"


def change(threat: str, eps: float) -> str:
    """What the adversary may do, in words: the end of the sentence 'after a worst-case change of ...'."""
    radius = units.show(eps)
    known = {
        "linf": f"at most {radius} per pixel value",
        "l2": f"Euclidean length at most {radius}",
        "l1": f"at most {radius}, summed over all pixel values",
        "l0": f"at most {radius} pixel{'' if eps == 1 else 's'}",
        "patch": f"one square of at most {radius} by {radius} pixels",
        "spatial": f"at most {radius}° in rotation and {share(eps / 280)}{_NBSP}% of each side in position",
    }
    return known.get(threat.lower(), f"at most {radius} ({threat})")


def headline(summary: Summary) -> str:
    """The verdict in one sentence for someone who has never heard of eps."""
    clean, robust = summary.clean_accuracy, summary.robust_accuracy
    return (
        f"Of {images(clean.n)} the model gets {percent(clean.value)} right; after a worst-case change of "
        f"{change(summary.threat, summary.eps)} it still gets {percent(robust.value)} right ({interval(robust)})."
    )


def chance(p: float) -> str:
    """A p-value."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def setting(value: Any) -> str:
    """A value of a stage's configuration: text bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
