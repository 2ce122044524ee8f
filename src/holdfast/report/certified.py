"""What is certified of a smoothed classifier and what an attack leaves of it: a figure, its table, a part of a page."""

from __future__ import annotations

import csv
import io
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from holdfast.foundation.stats import Interval, wilson
from holdfast.records.certified import DOCUMENT, CertifyInfo, CertifySummary, read_certify_summary
from holdfast.report import frame, wording
from holdfast.report.charts import COLOURS, INK, LOST, MUTED, NUMBER, PERCENT, SHAPES, styled, table

CERTIFIED = "certified: at least that many are right"
ATTACKED = "smoothed, under attack: at most that many"
UNDEFENDED = "undefended, under attack: at most that many"
UNKNOWN = "unknown"
CURVES = {"certified": CERTIFIED, "attacked": ATTACKED, "undefended": UNDEFENDED}
FIELDS = ("radius", "curve", "value", "low", "high", "n")
WIDTH, HEIGHT = 620, 320
"""Pixels."""


@dataclass(frozen=True)
class Certificates:
    """A finished certification."""

    label: str
    summary: CertifySummary

    @property
    def info(self) -> CertifyInfo:
        """What was asked."""
        return self.summary.asked


def has_certificates(folder: Path) -> bool:
    """Whether a finished certification lies in the folder."""
    return (folder / DOCUMENT).exists()


def read_certificates(folder: Path) -> Certificates:
    """The certification in ``folder``. Raises BadFile."""
    summary = read_certify_summary(folder)
    return Certificates(summary.asked.name, summary)


def half(summary: CertifySummary) -> Interval:
    """The L2 radius within which half of the images are certified right, 0 where fewer are at any radius.

    The interval holds the radii at which the Wilson interval of the certified share holds 1/2.
    """

    def reached(enough: Callable[[Interval], bool]) -> float:
        counts = (count for count in range(1, len(summary.reach) + 1) if enough(wilson(count, summary.n)))
        fewest = next(counts, None)
        return summary.reach[-fewest] if fewest else 0.0

    return Interval(
        reached(lambda rate: rate.value >= 0.5),
        summary.n,
        reached(lambda rate: rate.low >= 0.5),
        reached(lambda rate: rate.high >= 0.5),
    )


def headline(summary: CertifySummary) -> str:
    """What is proved, in words for someone who has never heard of smoothing."""
    asked, right = summary.asked, summary.curve[0].certified
    reached = half(summary).value
    proved = f"half of them whatever change of Euclidean length up to {reached:.3g} is made{spent(summary)}"
    return (
        f"Answering by majority under random noise (sigma {asked.sigma:g}), it is proved to get "
        f"{wording.percent(right.value)} of {wording.images(summary.n)} right, and "
        f"{proved if reached else 'not half of them under any change'}; each proof is wrong with a chance of at most "
        f"{asked.alpha:g}."
    )


def spent(summary: CertifySummary) -> str:
    """Says where half of the images reach the largest radius that so many draws can prove."""
    if half(summary).value < summary.asked.largest * (1 - 1e-9):
        return ""
    return f", the most that {wording.count(summary.asked.estimate)} draws can prove"


def context(runs: list[Certificates]) -> dict[str, Any]:
    """What the template of the section needs."""
    return {
        "charts": [(run, _chart(run, frame.WIDE if len(runs) == 1 else frame.HALF)) for run in runs],
        "headline": headline,
        "half": half,
        "spent": spent,
    }


def _chart(run: Certificates, wide: int) -> frame.Figure:
    told = ", ".join(f"{wording.percent(each.certified.value)} at {each.radius:g}" for each in run.summary.curve)
    return frame.figure(
        lambda width: figure(run.summary, width=width - 60),
        f"Certified accuracy against the L2 radius: {told}.",
        wide=wide,
    )


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


def figure(summary: CertifySummary, *, width: int = WIDTH) -> Any:
    """Accuracy against the L2 radius: certified, under attack, and grey what neither tells; bands are 95 % intervals.

    Curves fall in steps where they are known to: a certificate ends at its own radius, and a point that fools at one radius
    fools at every larger one.
    """
    drawn = list(_drawn(summary))
    names = [name for key, name in CURVES.items() if getattr(summary.curve[0], key) is not None]
    shown = [*names, UNKNOWN] if len(names) > 1 else names
    colours = [*COLOURS[: len(names)], LOST][: len(shown)]
    key = alt.Legend(
        title=None,
        orient="top",
        columns=2 if width > 600 else 1,
        symbolOpacity=1,
        labelLimit=width,
        offset=12,
        symbolSize=120,
    )
    colour = alt.Color("curve:N").scale(domain=shown, range=colours).legend(key)
    shape = alt.Shape("curve:N").scale(domain=names, range=[*SHAPES[: len(names)]]).legend(None)
    radii = summary.asked.radii
    x = alt.X("radius:Q").title("L2 radius, in pixel values from 0 to 1").scale(nice=False, domain=[0, radii[-1]])
    x = x.axis(grid=False, labelExpr=NUMBER, values=[*radii], labelFlush=False)
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
    of = f"{asked.model.name}, sigma {asked.sigma:g}, {summary.n} images of {asked.data.name}, alpha {asked.alpha:g}"
    head = of if width >= WIDTH else f"sigma {asked.sigma:g}, {summary.n} images, alpha {asked.alpha:g}"
    title = alt.Title(head, anchor="start", fontSize=13, fontWeight="normal", color=INK, offset=8, limit=width)
    return styled(alt.layer(*layers).properties(width=width, height=HEIGHT, title=title))


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
