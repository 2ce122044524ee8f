"""The figures of a finished run that can be required, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from holdfast.comparison import compare
from holdfast.foundation.errors import BadFile, Incomplete
from holdfast.records import conditions, defended, sequences
from holdfast.records.certified import CERTIFICATES, DOCUMENT, read_certify_summary
from holdfast.records.part import RUN, SUMMARY
from holdfast.records.schema import Finding, Rate
from holdfast.records.store import read_info, read_summary

FIGURES = {
    "clean_accuracy": "share of clean images that are right",
    "robust_accuracy": "share right at every point found within eps; at EPS for another radius of the run",
    "mean_error": "mean corruption error over the benchmark's corruptions, not normalised",
    "untouched_error": "the same over those that the declared training leaves alone",
    "held_out_error": "mean error over the held-out corruptions",
    "mce": "mean corruption error normalised by the run's baseline, a ratio",
    "untouched_mce": "the same over those that the declared training leaves alone, a ratio",
    "relative_mce": "the same of the rise over the clean error, a ratio",
    "flip_probability": "mean flip probability along the perturbations, not normalised",
    "mfr": "mean flip rate normalised by the run's baseline, a ratio",
    "adaptive_accuracy": "accuracy behind the defence under the adaptive attack",
    "oblivious_accuracy": "the same under attacks that do not know of it",
    "gain": "adaptive_accuracy minus the undefended accuracy",
    "certified_accuracy": "share proved right, at RADIUS",
    "difference": "the headline figure minus that of the baseline run, paired; at EPS for another radius",
    "clean_difference": "clean accuracy minus that of the baseline run, paired",
}
"""Name -> what it is."""
RATIOS = frozenset(("mce", "untouched_mce", "relative_mce", "mfr"))
"""Those that are no shares and no differences of shares."""


class Figure(NamedTuple):
    """A measured figure with its 95 % interval, where it has one, over ``n`` images; of a difference ``what`` differs."""

    value: float
    low: float | None
    high: float | None
    n: int
    what: str = ""


Key = tuple[str, float | None]
"""The name of a figure, and its radius; None for the headline, or where there is none."""


class Figures(NamedTuple):
    """All figures of a run, its ``name``, and what its checks found."""

    name: str
    found: Mapping[Key, Figure]
    doubts: tuple[Finding, ...]


def figures(folder: Path) -> Figures:
    """What a run folder holds.

    Raises:
        BadFile: there is no run, or its files are damaged.
        Incomplete: a part of it was begun and has not ended.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no run folder {folder}", hint="give the folder that holdfast audit wrote with --out")
    parts: list[Figures] = []
    for part, read in _PARTS.items():
        if not (folder / part / RUN).exists():
            continue
        if not (folder / part / SUMMARY).exists():
            raise _unfinished(folder / part)
        parts.append(read(folder))
    if (folder / DOCUMENT).exists():
        parts.append(_certificates(folder))
    elif (folder / CERTIFICATES / RUN).exists():
        raise _unfinished(folder / CERTIFICATES)
    if not parts:
        raise BadFile(
            f"{folder} holds no run with figures", hint="give the folder that holdfast audit wrote with --out"
        )
    found: dict[Key, Figure] = {}
    for each in reversed(parts):  # the worst case has the first word about the clean accuracy
        found |= each.found
    doubts = dict.fromkeys(doubt for each in parts for doubt in each.doubts if doubt.level != "note")
    return Figures(parts[0].name, found, tuple(doubts))


def _unfinished(folder: Path) -> Incomplete:
    return Incomplete(
        f"{folder} holds a run that has not come to its end",
        hint="run the same command again: it goes on where it stopped",
    )


def differences(baseline: Path, folder: Path) -> Figures:
    """The paired differences of a run to a baseline, by which figure their first common part is about.

    They are doubted where the two were not searched in the same way. Raises what `holdfast.comparison.compare` raises.
    """
    comparison = compare([baseline, folder])
    part = comparison.parts[0]
    found: dict[Key, Figure] = {}
    for row in part.rows:
        told = row.against[0].difference
        figure = Figure(told.value, told.low, told.high, part.n, row.title)
        if row.measure == "clean accuracy":
            found["clean_difference", None] = figure
        elif row.measure == part.headline.measure:
            found["difference", row.eps] = figure
        if row.headline:
            found["difference", None] = figure
    doubts = tuple(
        Finding(
            check="another search",
            level="warning",
            saw=caution.text,
            means="the difference is not that of the models alone",
            remedy="run both with the same plan",
        )
        for caution in comparison.cautions
        if caution.about == "search"
    )
    return Figures(comparison.runs[1].label, found, doubts)


def _worst_case(folder: Path) -> Figures:
    info, summary = read_info(folder), read_summary(folder)
    found: dict[Key, Figure] = {
        ("clean_accuracy", None): _of(summary.clean_accuracy),
        ("robust_accuracy", None): _of(summary.robust_accuracy),
    }
    found |= {("robust_accuracy", point.eps): _of(point.robust_accuracy) for point in summary.curve}
    return Figures(summary.name, found, summary.warnings + info.findings)


def _corruptions(folder: Path) -> Figures:
    info, summary = conditions.read_conditions(folder), conditions.read_conditions_summary(folder)
    clean = summary.clean.error
    found: dict[Key, Figure] = {
        ("clean_accuracy", None): Figure(1 - clean.value, 1 - clean.high, 1 - clean.low, clean.n)
    }
    means = {
        "mean_error": summary.mean_error,
        "untouched_error": summary.untouched,
        "held_out_error": summary.held_out,
        "mce": summary.mce,
        "untouched_mce": summary.mce_untouched,
    }
    for name, mean in means.items():
        if mean is not None:
            found[name, None] = Figure(mean.value, mean.low, mean.high, summary.n)
    if summary.relative_mce is not None:
        found["relative_mce", None] = Figure(summary.relative_mce, None, None, summary.n)
    return Figures(summary.name, found, summary.warnings + info.findings)


def _perturbations(folder: Path) -> Figures:
    info, summary = sequences.read_sequences(folder), sequences.read_sequences_summary(folder)
    found: dict[Key, Figure] = {}
    for name, mean in (("flip_probability", summary.mean_flip_probability), ("mfr", summary.mfr)):
        if mean is not None:
            found[name, None] = Figure(mean.value, mean.low, mean.high, summary.n)
    return Figures(summary.name, found, summary.warnings + info.findings)


def _defence(folder: Path) -> Figures:
    info, summary = defended.read_defended(folder), defended.read_defended_summary(folder)
    gain = summary.gain
    found: dict[Key, Figure] = {
        ("clean_accuracy", None): _of(summary.clean.mean),
        ("adaptive_accuracy", None): _of(summary.adaptive.mean),
        ("oblivious_accuracy", None): _of(summary.oblivious.mean),
        ("gain", None): Figure(gain.value, gain.low, gain.high, summary.n),
    }
    return Figures(summary.name, found, summary.warnings + info.findings)


def _certificates(folder: Path) -> Figures:
    summary = read_certify_summary(folder)
    found: dict[Key, Figure] = {("clean_accuracy", None): _of(summary.clean)}
    found |= {("certified_accuracy", point.radius): _of(point.certified) for point in summary.curve}
    return Figures(summary.asked.name, found, summary.warnings + summary.asked.findings)


def _of(rate: Rate) -> Figure:
    return Figure(rate.value, rate.low, rate.high, rate.n)


_PARTS: dict[str, Callable[[Path], Figures]] = {
    "": _worst_case,
    conditions.FOLDER: _corruptions,
    sequences.FOLDER: _perturbations,
    defended.FOLDER: _defence,
}
"""Folder of a part in that of its run -> what reads it."""
