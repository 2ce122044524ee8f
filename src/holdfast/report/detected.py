"""Detectors drawn: their ROC curves against both attacks; as rows; and as a part of a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from holdfast.audit.detected.conclude import Told, told
from holdfast.foundation.errors import BadFile
from holdfast.records.detected import (
    ADAPTIVE,
    FOLDER,
    OBLIVIOUS,
    SUMMARY,
    DetectedInfo,
    DetectedSummary,
    DetectorRow,
    UnderAttack,
    read_detected,
    scored,
)
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import CLEAN
from holdfast.report import frame, wording
from holdfast.report.charts import COLOURS, INK, MUTED, PERCENT, cycle, save_png, styled, svg, table

ATTACKS = {OBLIVIOUS: "The attack ignores the detector", ADAPTIVE: "The attack knows the detector"}
CSV, CURVES, SVG, PNG = "table.csv", "roc.csv", "figure.svg", "figure.png"
WRITTEN = (PNG, SVG, CSV, CURVES)
SIDE = 330
"""Pixels: width and height of a panel."""
LINES = (*COLOURS, INK)
DASHES = ([1, 0], [6, 3])
"""Of the lines: solid until the colours are used up."""


@dataclass(frozen=True)
class Detectors:
    """A finished evaluation of detectors; ``told``: what each of them said of every image."""

    label: str
    summary: DetectedSummary
    told: Mapping[str, Told]

    @property
    def info(self) -> DetectedInfo:
        """What was asked."""
        return self.summary.info


def has_detectors(folder: Path) -> bool:
    """Whether a finished evaluation of detectors lies in the folder."""
    return (folder / SUMMARY).exists()


def read_detectors(folder: Path) -> Detectors:
    """The evaluation of detectors in ``folder``.

    Raises:
        BadFile: a file is missing or damaged, or the outcomes do not agree with the summary.
    """
    summary, found = read_detected(folder), told([*scored(folder)])
    right = {name: int((~each.fooled(CLEAN)).sum()) for name, each in found.items()}
    if right != {row.detector: round(summary.undefended_clean.value * summary.n) for row in summary.rows}:
        raise BadFile(
            f"{folder}: {SUMMARY} and {FOLDER}/outcomes.jsonl disagree about the clean images",
            hint=f"delete {SUMMARY} and run holdfast detect again: it concludes anew",
        )
    return Detectors(summary.info.name, summary, found)


def headline(summary: DetectedSummary) -> str:
    """What detectors are worth, in one sentence."""
    gains = [row.detector for row in summary.rows if row.gain.low > 0]
    num, alone = len(summary.rows), wording.percent(summary.undefended.value)
    found = (
        f"{len(gains)} of {num} detectors keep more: {', '.join(gains)}"
        if gains
        else f"none of {num} detectors keeps more"
    )
    if num == 1:
        (row,) = summary.rows
        kept = wording.percent(row.adaptive.robust.value)
        found = f"{row.detector} keeps {kept}: {row.verdict} ({wording.points(row.gain)} points)"
    return (
        f"Of {wording.images(summary.n)} the model alone gets {alone} right under attack. With a detector that rejects what "
        f"it flags, and an attack that knows it, {found}."
    )


def context(runs: list[Detectors]) -> dict[str, Any]:
    """What the template of the section needs."""
    return {
        "charts": [(run, _chart(run)) for run in runs],
        "headline": headline,
    }


def _chart(run: Detectors) -> frame.Figure:
    areas = "; ".join(
        f"{ATTACKS[attack]}: " + ", ".join(_label(row, attack) for row in run.summary.rows) for attack in ATTACKS
    )
    return frame.figure(lambda width: figure(run.summary, run.told, across=width > 2 * SIDE), f"ROC curves. {areas}.")


def write(summary: DetectedSummary, told: Mapping[str, Told], folder: Path) -> None:
    """The figure and both tables. Raises StorageError."""
    with storing(folder):
        chart = figure(summary, told)
        write_atomic(folder / CSV, [_csv(rows(summary))])
        write_atomic(folder / CURVES, [_csv(points(told))])
        write_atomic(folder / SVG, [svg(chart).encode()])
        save_png(chart, folder / PNG)


def rows(summary: DetectedSummary) -> Iterator[dict[str, Any]]:
    """Every figure: detector ("none" for the model alone), quantity, value, low, high, n."""
    alone = {
        "clean": summary.undefended_clean,
        "oblivious robust": summary.undefended_oblivious,
        "robust": summary.undefended,
    }
    yield from (_cells("none", quantity, found) for quantity, found in alone.items())
    for row in summary.rows:
        for quantity in ("calibrated", "false_alarms", "noise", "noise_adds", "clean"):
            yield _cells(row.detector, quantity.replace("_", " "), getattr(row, quantity))
        for attack in ATTACKS:
            under: UnderAttack = getattr(row, attack)
            for quantity in ("auc", "detected", "safe", "robust"):
                if (found := getattr(under, quantity)) is not None:
                    yield _cells(row.detector, f"{attack} {quantity}", found)
        yield _cells(row.detector, "gain", row.gain)
        yield _cells(row.detector, "overstated", row.overstated)


def _cells(detector: str, quantity: str, found: Any) -> dict[str, Any]:
    parts = {key: getattr(found, key) for key in ("value", "low", "high")}
    return {"detector": detector, "quantity": quantity, **parts, "n": getattr(found, "n", "")}


def points(told: Mapping[str, Told]) -> Iterator[dict[str, Any]]:
    """Every point of every curve: detector, attack, threshold, and the two shares that reach it."""
    for name, each in told.items():
        for attack in ATTACKS:
            if (curve := each.roc(attack)) is not None:
                for level, alarms, detected in zip(curve.thresholds, curve.false_alarms, curve.detected):
                    shares = {"false_alarms": round(float(alarms), 12), "detected": round(float(detected), 12)}
                    yield {"detector": name, "attack": attack, "threshold": float(level), **shares}


def _csv(found: Iterable[dict[str, Any]]) -> bytes:
    listed, file = list(found), io.StringIO()
    if listed:
        writer = csv.DictWriter(file, [*listed[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return file.getvalue().encode()


def figure(summary: DetectedSummary, told: Mapping[str, Told], *, across: bool = True) -> Any:
    """The curves, a panel for each attack, side by side or ``across`` False below one another; a dot where each threshold
    stands, dashed what chance alone gives.

    The attack that knows a detector knows its threshold: right of the dot and left of it, it was not asked for its best.
    """
    beside, side = (alt.hconcat, SIDE) if across else (alt.vconcat, SIDE - 70)
    panels = (_panel(summary, told, attack, side=side) for attack in ATTACKS)
    return styled(beside(*panels, spacing=30).resolve_scale(color="independent", strokeDash="independent"))


def _panel(summary: DetectedSummary, told: Mapping[str, Told], attack: str, *, side: int) -> Any:
    names = {row.detector: _label(row, attack) for row in summary.rows}
    curves: list[dict[str, Any]] = []
    for point in points(told):
        if point["attack"] == attack:
            where = {"x": point["false_alarms"], "y": point["detected"], "place": len(curves)}
            curves.append({"detector": names[point["detector"]], **where})
    dots = [
        {"detector": names[row.detector], "x": row.false_alarms.value, "y": detected.value}
        for row in summary.rows
        if (detected := getattr(row, attack).detected) is not None
    ]
    labels, key = (
        list(names.values()),
        alt.Legend(title=None, orient="bottom", columns=1, labelLimit=side, symbolType="stroke"),
    )
    dashes = [DASHES[min(place // len(LINES), 1)] for place in range(len(labels))]
    colour = alt.Color("detector:N").scale(domain=labels, range=cycle(LINES, len(labels))).legend(key)
    dash = alt.StrokeDash("detector:N").scale(domain=labels, range=dashes).legend(key)
    labelled = side < SIDE or attack == OBLIVIOUS
    x = _axis(alt.X("x:Q"), "flagged, of clean images (false alarms)")
    y = _axis(alt.Y("y:Q"), "flagged, of attacked images that fool the classifier" if labelled else None)
    chance = alt.Chart(table([{"x": end, "y": end} for end in (0, 1)]))
    drawn = alt.Chart(table(curves)).mark_line(strokeWidth=2, clip=True)
    stands = alt.Chart(table(dots)).mark_point(filled=True, size=70, opacity=1, stroke="white", strokeWidth=1)
    said = f"dots: thresholds set for {100 * summary.info.false_alarms:g} % false alarms; dashed: chance"
    head = alt.Title(
        ATTACKS[attack], subtitle=said, anchor="start", fontSize=13, color=INK, subtitleColor=MUTED, offset=8
    )
    return (
        alt.layer(
            chance.mark_line(color=MUTED, strokeDash=[3, 3], strokeWidth=1.2).encode(x=x, y=y),
            drawn.encode(x=x, y=y, color=colour, strokeDash=dash, order="place:Q"),
            stands.encode(x=x, y=y, color=colour),
        )
        .resolve_scale(color="shared")
        .properties(width=side, height=side, title=head)
    )


def _axis(channel: Any, title: str | None) -> Any:
    return channel.title(title).scale(domain=[0, 1]).axis(tickCount=5, labelExpr=PERCENT, grid=True)


def _label(row: DetectorRow, attack: str) -> str:
    found = getattr(row, attack).auc
    return f"{row.detector}: AUC {f'{found.value:.2f} ({found.low:.2f} to {found.high:.2f})' if found else 'undefined'}"
