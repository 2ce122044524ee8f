"""What is certified of a smoothed classifier and what an attack leaves of it: one figure, and the rows of its table."""

from __future__ import annotations

import csv
import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import altair as alt

from holdfast.foundation.stats import wilson
from holdfast.records.certified import CertifySummary
from holdfast.report.charts import COLOURS, INK, LOST, MUTED, PERCENT, SHAPES, styled, table

CERTIFIED = "certified: at least that many are right"
ATTACKED = "smoothed, under attack: at most that many"
UNDEFENDED = "undefended, under attack: at most that many"
UNKNOWN = "unknown"
CURVES = {"certified": CERTIFIED, "attacked": ATTACKED, "undefended": UNDEFENDED}
FIELDS = ("radius", "curve", "value", "low", "high", "n")
WIDTH, HEIGHT = 620, 320
"""Pixels."""


def rows(summary: CertifySummary) -> Iterator[dict[str, Any]]:
    """The curves as rows of `FIELDS`; how many images abstained as a curve of shares without an interval."""
    for point in summary.curve:
        for name in CURVES:
            if (rate := getattr(point, name)) is not None:
                yield dict(zip(FIELDS, (point.radius, name, rate.value, rate.low, rate.high, rate.n)))
        if point.abstained is not None:
            yield dict(zip(FIELDS, (point.radius, "abstained", point.abstained / summary.n, "", "", summary.n)))


def as_csv(summary: CertifySummary) -> bytes:
    """The rows as a CSV file."""
    file = io.StringIO()
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(summary))
    return file.getvalue().encode()


def figure(summary: CertifySummary) -> Any:
    """Accuracy against the L2 radius: certified, under attack, and grey what neither tells; bands are 95 % intervals.

    Curves fall in steps where they are known to: a certificate ends at its own radius, and a point that fools at one radius
    fools at every larger one.
    """
    drawn = list(_drawn(summary))
    names = [name for key, name in CURVES.items() if getattr(summary.curve[0], key) is not None]
    shown = [*names, UNKNOWN] if len(names) > 1 else names
    colours = [*COLOURS[: len(names)], LOST][: len(shown)]
    key = alt.Legend(title=None, orient="top", columns=2, symbolOpacity=1, labelLimit=WIDTH, offset=12, symbolSize=120)
    colour = alt.Color("curve:N").scale(domain=shown, range=colours).legend(key)
    shape = alt.Shape("curve:N").scale(domain=names, range=[*SHAPES[: len(names)]]).legend(None)
    radii = summary.asked.radii
    x = alt.X("radius:Q").title("L2 radius, in pixel values from 0 to 1").scale(nice=False, domain=[0, radii[-1]])
    x = x.axis(grid=False, format="~g", values=[*radii], labelFlush=False)
    y = alt.Y("value:Q").title("images that are right").scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5)
    lines = alt.Chart(table(drawn)).encode(x=x, color=colour)
    band = lines.mark_area(opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q")
    dashes = alt.StrokeDash("curve:N").scale(domain=names, range=[[1, 0], [1, 0], [6, 4]][: len(names)]).legend(None)
    line = lines.mark_line(strokeWidth=2.2).encode(y=y, strokeDash=dashes)
    layers: list[Any] = [band, line]
    if len(names) > 1:
        unknown = alt.Chart(table(list(_unknown(drawn)))).encode(x=x, color=colour)
        layers.insert(0, unknown.mark_area(opacity=0.35).encode(y=alt.Y("low:Q"), y2="high:Q"))
    marks = [{**row, "curve": CURVES[row["curve"]]} for row in rows(summary) if row["curve"] in CURVES]
    dots = alt.Chart(table(marks)).mark_point(filled=True, size=52, opacity=1, clip=False)
    layers.append(dots.encode(x=x, y=y, color=colour, shape=shape))
    if summary.asked.largest < radii[-1]:
        limit = alt.Chart(table([{"radius": summary.asked.largest}])).encode(x="radius:Q")
        layers.append(limit.mark_rule(color=MUTED, strokeDash=[2, 3]))
        text = f"no further with {summary.asked.estimate:,} draws"
        note = limit.mark_text(align="right", baseline="middle", dx=-6, color=MUTED, fontSize=11, text=text)
        layers.append(note.encode(y=alt.datum(_free(drawn, summary.asked.largest, radii[-1]))))
    asked = summary.asked
    head = f"{asked.model.name}, sigma {asked.sigma:g}, {summary.n} images of {asked.data.name}, alpha {asked.alpha:g}"
    title = alt.Title(head, anchor="start", fontSize=13, fontWeight="normal", color=INK, offset=8, limit=WIDTH)
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def _drawn(summary: CertifySummary) -> Iterator[dict[str, Any]]:
    """The curves wherever one of them falls, and a hair before or beyond, so that lines show steps."""
    radii = summary.asked.radii
    falls = {*radii, *(radius * (1 - 1e-6) for radius in radii)}
    falls |= {end for radius in summary.reach for end in (radius, radius * (1 + 1e-6)) if end <= radii[-1]}
    for radius in sorted(falls):
        point = summary.curve[bisect_right(radii, radius) - 1]
        for name in ("undefended", "attacked"):
            if (rate := getattr(point, name)) is not None:
                yield {"radius": radius, "curve": CURVES[name], **_parts(rate)}
        reached = len(summary.reach) - bisect_left(summary.reach, radius)
        yield {"radius": radius, "curve": CERTIFIED, **_parts(wilson(reached, summary.n))}


def _unknown(drawn: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """At each radius from the certified to the attacked curve."""
    certified = {row["radius"]: row["value"] for row in drawn if row["curve"] == CERTIFIED}
    for row in drawn:
        if row["curve"] == ATTACKED:
            yield {"radius": row["radius"], "curve": UNKNOWN, "low": certified[row["radius"]], "high": row["value"]}


def _free(drawn: list[dict[str, Any]], radius: float, whole: float) -> float:
    """The middle of the largest height that no band crosses over a fifth of the ``whole`` width up to that radius."""
    near = [row for row in drawn if radius - 0.2 * whole <= row["radius"] <= radius and row["curve"] != UNDEFENDED]
    edges = [0.0]
    for curve in (CERTIFIED, ATTACKED):
        if band := [row for row in near if row["curve"] == curve]:
            edges += [min(row["low"] for row in band), max(row["high"] for row in band)]
    gaps = [(high - low, (low + high) / 2) for low, high in zip(edges[::2], [*edges[1::2], 1.0])]
    return max(gaps)[1]


def _parts(rate: Any) -> dict[str, float]:
    return {"value": rate.value, "low": rate.low, "high": rate.high}
