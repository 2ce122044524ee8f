"""Two drawings: theory as lines with samples as dots on them, and classifiers below the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from holdfast.foundation.stats import Interval
from holdfast.report.charts import COLOURS, INK, MUTED, PERCENT, SHAPES, cycle, table

Line = Sequence[tuple[float, float]]
"""Points of a curve."""


@dataclass(frozen=True)
class Dot:
    """What was measured: at ``x`` with its interval, or at an exact place, the interval ``y``; of a ``series``."""

    series: str
    x: Interval
    y: Interval


def exactly(value: float) -> Interval:
    """A number that was not sampled."""
    return Interval(value, 0, value, value)


def lines_and_dots(
    title: str,
    lines: Mapping[str, Line],
    dots: Sequence[Dot],
    *,
    x: str,
    y: str,
    names: Sequence[str],
    labels: str = "format(datum.value, '~g')",
    dashed: str = "",
    marked: Mapping[str, float] | None = None,
    width: int = 330,
    height: int = 280,
) -> Any:
    """Lines for the theory, dots with their intervals for what was measured; shares on the vertical axis.

    Args:
        title: above the panel.
        lines: by their series.
        dots: theirs, likewise.
        x: the title of the horizontal axis.
        y: that of the vertical one.
        names: all series in the order of the legend, the same for panels that share one.
        labels: an expression for those of the horizontal axis; `holdfast.report.charts.PERCENT` for shares.
        dashed: the line that is dashed and above the others, where it may cover one.
        marked: words and the places on the horizontal axis where they stand.
        width: in pixels.
        height: likewise.
    """
    legend = alt.Legend(title=None, orient="top", columns=4, symbolOpacity=1, labelLimit=300, offset=10)
    colour = alt.Color("series:N").scale(domain=list(names), range=cycle(COLOURS, len(names))).legend(legend)
    shape = alt.Shape("series:N").scale(domain=list(names), range=cycle(SHAPES, len(names))).legend(legend)
    across = alt.X("x:Q", scale=alt.Scale(zero=False, nice=False, padding=8)).title(x)
    across = across.axis(grid=False, tickCount=6, labelExpr=labels)
    up = alt.Y("y:Q", scale=alt.Scale(domain=[0, 1])).title(y).axis(labelExpr=PERCENT, tickCount=5)
    curves = [
        {"series": name, "x": at, "y": value, "order": place}
        for name, line in lines.items()
        for place, (at, value) in enumerate(line)
    ]
    base = alt.Chart(table(curves)).encode(x=across, y=up, color=colour, order="order:Q")
    layers: list[Any] = [base.transform_filter(alt.datum.series != dashed).mark_line(strokeWidth=2)]
    if dashed:
        layers.append(base.transform_filter(alt.datum.series == dashed).mark_line(strokeWidth=2, strokeDash=[6, 5]))
    if dots:
        rows = [{"series": dot.series, **_bounds("x", dot.x), **_bounds("y", dot.y)} for dot in dots]
        base = alt.Chart(table(rows)).encode(color=colour)
        layers += [
            base.mark_rule(strokeWidth=1.2).encode(x=across, y=alt.Y("y low:Q"), y2="y high:Q"),
            base.mark_rule(strokeWidth=1.2).encode(x=alt.X("x low:Q"), x2="x high:Q", y=up),
            base.mark_point(filled=True, size=48, opacity=1).encode(x=across, y=up, shape=shape),
        ]
    if marked:
        places = alt.Chart(table([{"x": at, "word": word} for word, at in marked.items()])).encode(x="x:Q")
        word = places.mark_text(align="left", baseline="top", dx=5, dy=2, color=MUTED, fontSize=11)
        layers += [places.mark_rule(color=MUTED, strokeDash=[2, 3]), word.encode(text="word:N", y=alt.value(0))]
    head = alt.Title(title, anchor="start", fontSize=13, color=INK, offset=10)
    return alt.layer(*layers).properties(width=width, height=height, title=head)


def beside(*panels: Any) -> Any:
    """Panels in a row, under one legend."""
    return alt.hconcat(*panels, spacing=28).resolve_scale(color="shared", shape="shared")


def _bounds(axis: str, found: Interval) -> dict[str, float]:
    return {axis: found.value, f"{axis} low": found.low, f"{axis} high": found.high}
