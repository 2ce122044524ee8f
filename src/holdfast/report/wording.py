"""How a report says numbers: shares, intervals, counts, radii and the headline sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from holdfast.foundation import units
from holdfast.foundation.text import visible
from holdfast.records.conditions import ConditionsSummary, Mean
from holdfast.records.schema import Finding, Measured, Rate, Summary
from holdfast.records.sequences import SequencesSummary

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


def points(found: Any) -> str:
    """A difference with ``value``, ``low`` and ``high`` in points, with its interval: ``+1.3 (−0.4 to +3.0)``."""
    # A mean of shares may be a hair below 0, which is no minus.
    value, low, high = (f"{round(100 * each, 1) + 0.0:+.1f}" for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})".replace("-", "−")


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


def moment(written: str) -> str:
    """A time of ISO 8601 as people write it: ``2026-01-31 23:59:00 UTC``."""
    return written.replace("T", " ").replace("+00:00", " UTC")


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def measured_on(measured: Measured) -> str:
    """The device, and how the searches ran on it: ``AMD EPYC, float32; searches: 256 at once, in bfloat16``."""
    how = (
        f"{measured.slots} at once",
        *((f"in {measured.precision}",) if measured.precision != "full" else ()),
        *((f"compiled ({measured.compile})",) if measured.compile != "none" else ()),
    )
    return f"{measured.device}, {measured.dtype}; searches: {', '.join(how)}"


def in_levels(radii: tuple[float, ...]) -> bool:
    """Whether people write these radii in units of 1/255."""
    return any(radii) and all("/255" in units.show(eps) for eps in radii if eps)


def distance(value: float, *, levels: bool) -> str:
    """A measured distance, in the unit the radii of its run are written in."""
    return f"{value * 255:.3g}/255" if levels else f"{value:.3g}"


def change(threat: str, eps: float) -> str:
    """What the adversary may do, in words: the end of the sentence 'at the worst change that was found of ...'."""
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


def scale(threat: str) -> str:
    """What a radius of that threat is measured in, behind it; empty where that is no pixel values."""
    return " (black is 0, white is 1)" if threat.lower() in ("linf", "l2", "l1") else ""


def headline(summary: Summary) -> str:
    """The verdict in one sentence for someone who has never heard of eps."""
    clean, robust = summary.clean_accuracy, summary.robust_accuracy
    return (
        f"Of {images(clean.n)} the model gets {percent(clean.value)} right; at the worst change that was found of "
        f"{change(summary.threat, summary.eps)}{scale(summary.threat)} it still gets {percent(robust.value)} right "
        f"(95{_NBSP}% interval {interval(robust)})."
    )


def trust(findings: Sequence[Finding]) -> tuple[str, str]:
    """Whether the numbers may be relied on: the gravest level among the findings (calm: none objects), and a sentence."""
    for level, begins in (("error", "Do not rely on these numbers"), ("warning", "Read before you rely on it")):
        names = ", ".join(found.check for found in findings if found.level == level)
        if names:
            return level, f"{begins}: {names}."
    return "calm", "No check found a reason to doubt it."


def weather_headline(summary: ConditionsSummary) -> str:
    """What the corruptions did, in one sentence."""
    right = 1 - summary.clean.error.value
    worst = max(summary.rows, key=lambda row: row.mean_error)
    mean = (
        summary.mean_error.value
        if summary.mean_error
        else sum(row.mean_error for row in summary.rows) / len(summary.rows)
    )
    kinds = f"{len(summary.counted)} common corruptions" if summary.mean_error else f"{len(summary.rows)} corruptions"
    suffers = worst.corruption.replace("_", " ")
    return (
        f"Of {images(summary.n)} it gets {percent(right)} right when they are clean and {percent(1 - mean)} under "
        f"{kinds}, on average; it suffers most from {suffers} ({percent(1 - worst.mean_error)} right)."
    )


def film_headline(summary: SequencesSummary) -> str:
    """How steady the model is, in one sentence."""
    assert summary.mean_flip_probability is not None
    least = max(
        (row for row in summary.rows if row.perturbation in summary.counted), key=lambda row: row.flip_probability.value
    )
    return (
        f"Along {len(summary.counted)} kinds of small changes it changes its mind in "
        f"{percent(summary.mean_flip_probability.value)} of the steps; it is least steady under "
        f"{least.perturbation.replace('_', ' ')} ({percent(least.flip_probability.value)})."
    )


def means(summary: ConditionsSummary) -> list[tuple[str, Mean, str]]:
    """(its right name, the mean, its unit): the headline figures; of a model trained on the test, those left untouched."""
    found = []
    if summary.mce is not None:
        found.append((f"mCE, normalised by {summary.baseline}", summary.mce_untouched or summary.mce, ""))
    mean = summary.untouched or summary.mean_error
    if mean is not None:
        found.append(("Mean corruption error, not normalised", mean, f"{_NBSP}%"))
    if summary.untouched is not None or summary.mce_untouched is not None:
        found = [(f"{name}, where training left it alone", value, unit) for name, value, unit in found]
    if summary.held_out is not None:
        found.append(("Mean error, held-out corruptions", summary.held_out, f"{_NBSP}%"))
    return found


def chance(p: float) -> str:
    """A p-value."""
    return f"p{_NBSP}<{_NBSP}0.0001" if p < 0.0001 else f"p{_NBSP}={_NBSP}{p:.2g}"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no link, no cell of a table ends in it."""
    line = re.sub(r"([\\`*_{}\[\]()<>#!|~&$@])", r"\\\1", visible(" ".join(text.split())))
    return re.sub(r"^(\d*)([-+.])", r"\1\\\2", line)  # at the start of a line these would begin a list


def setting(value: Any) -> str:
    """A value of a stage's configuration: text bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
