"""The two charts that the experiments draw: lines over something that grows, and dots with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from holdfast.foundation.stats import Interval
from holdfast.report.charts import COLOURS, INK, MUTED, PERCENT, SHAPES, cycle, styled, table


@dataclass(frozen=True)
class Point:
    """A share at ``x`` of a line, or in a row, called ``x``; ``series`` is what its colour stands for."""

    series: str
    x: float | str
    share: Interval


@dataclass(frozen=True)
class Panel:
    """One drawing: its ``title``, its points, and the places on the x axis that are ``marked``, each with a word."""

    title: str
    points: Sequence[Point]
    marked: Sequence[tuple[float, str]] = ()


def lines(
    panels: Sequence[Panel],
    *,
    x: str,
    y: str,
    log: bool = False,
    dots: bool = True,
    from_zero: bool = True,
    series: Sequence[str] = (),
    height: int = 250,
) -> Any:
    """Panels side by side on one scale of shares, a line for each series, with bands where there are intervals.

    Args:
        panels: what is drawn.
        x: the title of the horizontal axis.
        y: what the shares are.
        log: whether the horizontal axis is logarithmic, its labels the values that were taken.
        dots: whether the values are marked.
        from_zero: whether the shares begin at 0; else where the lowest stands.
        series: their order, where other charts of the figure have some of them, too.
        height: of each panel, in pixels.
    """
    names = list(series) or list(dict.fromkeys(point.series for panel in panels for point in panel.points))
    points = [point for panel in panels for point in panel.points]
    scale = alt.Scale(domain=[0, 1]) if from_zero else alt.Scale(zero=False)
    ticks = sorted({float(point.x) for point in points})
    drawn = []
    for place, panel in enumerate(panels):
        at = alt.Axis(values=ticks if log else alt.Undefined, tickCount=6, grid=False, format=",.6~g")
        spread = alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(nice=False)
        across = alt.X("x:Q", axis=at, scale=spread).title(x)
        up = alt.Y("value:Q", scale=scale).title(y if not place else None).axis(labelExpr=PERCENT, tickCount=5)
        colour, shape = _marked_by(names, legend=len(names) > 1)
        base = alt.Chart(table([_row(point) for point in panel.points])).encode(x=across, color=colour)
        layers = [
            base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q"),
            base.mark_line(strokeWidth=2.2).encode(y=up),
        ]
        if dots:
            layers.append(base.mark_point(filled=True, size=50, opacity=1).encode(y=up, shape=shape))
        layers += _marks(panel.marked)
        sized = alt.layer(*layers).properties(width=max(190, 560 // len(panels)), height=height)
        title = alt.Title(panel.title, anchor="start", fontSize=13, color=INK, offset=10)
        drawn.append(sized.properties(title=title) if panel.title else sized)
    return alt.hconcat(*drawn, spacing=24).resolve_scale(color="shared", shape="shared")


def ladder(points: Sequence[Point], *, x: str) -> Any:
    """A row for each name, dots for its shares, lines for their intervals; the rows keep their order."""
    names = list(dict.fromkeys(point.series for point in points))
    order = list(dict.fromkeys(point.x for point in points))
    colour, shape = _marked_by(names, legend=True)
    down = (
        alt.Y("x:N")
        .title(None)
        .scale(domain=order)
        .axis(labelLimit=260, labelPadding=12, grid=True, ticks=False, domain=False)
    )
    across = alt.X("value:Q").title(x).scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5, grid=False)
    base = alt.Chart(table([_row(point) for point in points])).encode(y=down, color=colour)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=across, shape=shape)
    return alt.layer(bars, dots).properties(width=480, height=44 * len(order))


def figure(*charts: Any) -> Any:
    """Charts below one another, in the look of the report."""
    return styled(
        alt.vconcat(*charts, spacing=18).resolve_scale(color="shared", shape="shared") if len(charts) > 1 else charts[0]
    )


def _marked_by(names: list[str], *, legend: bool) -> tuple[alt.Color, alt.Shape]:
    shown = (
        alt.Legend(title=None, orient="top", columns=4, symbolOpacity=1, labelLimit=300, offset=10) if legend else None
    )
    colour = alt.Color("series:N").scale(domain=names, range=cycle(COLOURS, len(names))).legend(shown)
    return colour, alt.Shape("series:N").scale(domain=names, range=cycle(SHAPES, len(names))).legend(shown)


def _marks(marked: Sequence[tuple[float, str]]) -> list[Any]:
    rows = [{"x": place, "word": word} for place, word in marked]
    if not rows:
        return []
    base = alt.Chart(table(rows)).encode(x="x:Q")
    word = base.mark_text(align="left", baseline="top", dx=5, dy=2, color=MUTED, fontSize=11)
    return [base.mark_rule(color=MUTED, strokeDash=[2, 3]), word.encode(text="word:N", y=alt.value(0))]


def _row(point: Point) -> dict[str, Any]:
    row: dict[str, Any] = {"series": point.series, "x": point.x, "value": point.share.value}
    if math.isfinite(point.share.low) and point.share.low < point.share.high:
        row |= {"low": point.share.low, "high": point.share.high}
    return row
