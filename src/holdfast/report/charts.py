"""The charts, as Altair specifications: one function a chart, the same for page, PNG and notebook.

Every chart takes its width in pixels, because text in a scaled picture becomes unreadable: the page holds a wide and a
narrow drawing of each. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; the page's style
sheet finds them in the SVG and shifts them for a dark background.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from holdfast.foundation import units
from holdfast.records.schema import CLEAN, Rate
from holdfast.report import wording
from holdfast.report.read import FAILED, Run
from holdfast.report.tally import bins, condensed, losses

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
FONT = "Helvetica Neue, Arial, Liberation Sans, sans-serif"
INK, MUTED, RULE, LOST, TRACK = "#333333", "#6b6b6b", "#dddddd", "#b8b8b8", "#efefef"
TOLD = "told: "
"""What begins the description of a mark that the page shows on hover; Vega describes all others by itself."""
PERCENT = "format(datum.value * 100, '~r') + '\u00a0%'"
NUMBER = "format(datum.value, '~g')"
"""Of an axis: as it is. The option ``format`` rounds to what so many ticks need, and calls 0.15 0.1."""

_STYLED = {"mark-area", "mark-rect", "role-axis-label"}
"""The classes of Vega's that the style sheet knows."""
_FINE = re.compile(r"-?\d+\.\d{3,}")
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def curve(runs: Sequence[Run], *, width: int) -> alt.LayerChart:
    """Robust accuracy against eps with its 95 % band, all runs in one chart. The runs must share a threat."""
    series, heads = {run.label: points(run) for run in runs}, [run.summary.eps for run in runs]
    return curves(series, marks=heads, unit=wording.scale(runs[0].summary.threat), width=width)


def curves(
    series: Mapping[str, Sequence[tuple[float, Rate]]], *, marks: Sequence[float], unit: str = "", width: int
) -> alt.LayerChart:
    """The same of (eps, rate) pairs under each label; ``marks``: the headline radii; ``unit``: of eps, in words."""
    levels = wording.in_levels(tuple(eps for found in series.values() for eps, _ in found if eps))
    scale = 255 if levels else 1
    rows: list[dict[str, Any]] = []
    for label, found in series.items():
        for eps, rate in found:
            parts = {"value": rate.value, "low": rate.low, "high": rate.high}
            share = f"{wording.percent(rate.value)} ({wording.interval(rate)}), n = {rate.n}"
            told = f"{label} at eps {units.show(eps)}: {share}"
            rows.append({"run": label, "eps": round(eps * scale, 6), **parts, "told": TOLD + told})
    names = list(series)
    title = "eps, in units of 1/255" if levels else f"eps{unit}"
    radii = sorted({row["eps"] for row in rows})
    x = (
        alt.X("eps:Q")
        .title(title)
        .axis(grid=False, values=_spread(radii, 10 if width > 400 else 6), labelExpr=NUMBER, labelFlush=False)
    )
    y = alt.Y("value:Q").title(None).scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5)
    legend = None
    if len(series) > 1:
        legend = alt.Legend(title=None, orient="top", columns=1, symbolOpacity=1, labelLimit=width - 80, offset=12)
    colour = alt.Color("run:N").scale(domain=names, range=cycle(COLOURS, len(names))).legend(legend)
    shape = alt.Shape("run:N").scale(domain=names, range=cycle(SHAPES, len(names))).legend(legend)
    base = alt.Chart(table(rows)).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2).encode(y=y)
    dots = base.mark_point(filled=True, size=46, opacity=1, aria=True).encode(y=y, shape=shape, description="told:N")
    heads = [{"eps": round(eps * scale, 6)} for eps in sorted(set(marks))]
    rule = alt.Chart(table(heads)).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x="eps:Q")
    note = (
        alt.Chart(table(heads))
        .mark_text(align="right", baseline="top", dx=-6, dy=2, color=MUTED, fontSize=11, text="headline")
        .encode(x="eps:Q", y=alt.value(0))
    )
    return styled(
        alt.layer(rule, band, line, dots, note).properties(width=width - 60, height=300 if width > 400 else 230)
    )


def distances(runs: Sequence[Run], *, width: int) -> alt.LayerChart:
    """The share of images whose nearest misclassified point found lies further away than that, a step for each image.

    The runs must share a threat and come from plans with minimal attacks.
    """
    levels = wording.in_levels(tuple(run.summary.eps for run in runs))
    scale = 255 if levels else 1
    rows = [
        {"run": run.label, "distance": round(distance * scale, 6), "value": share}
        for run in runs
        for distance, share in standing(run)
    ]
    names = [run.label for run in runs]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=width - 80) if len(runs) > 1 else None
    colour = alt.Color("run:N").scale(domain=names, range=cycle(COLOURS, len(names))).legend(legend)
    title = "distance to the nearest misclassified point found" + (", in units of 1/255" if levels else "")
    x = alt.X("distance:Q").title(title).axis(grid=False, tickCount=8, labelExpr=NUMBER).scale(nice=False)
    y = alt.Y("value:Q").title(None).scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5)
    line = alt.Chart(table(rows)).mark_line(interpolate="step-after", strokeWidth=2.2).encode(x=x, y=y, color=colour)
    return styled(alt.layer(line).properties(width=width - 60, height=260 if width > 400 else 200))


def standing(run: Run) -> list[tuple[float, float]]:
    """(distance, share of all images further away), from the clean accuracy at 0 to the largest radius of the run.

    Of many images every so many steps are left out, so that about 400 remain.
    """
    n = len(run.outcomes)
    found = sorted(outcome.distance for outcome in run.outcomes if outcome.eps is not None)
    steps = [(distance, 1 - (place + 1) / n) for place, distance in enumerate(found) if distance > 0]
    thinned = steps[:: -(-len(steps) // 400) or 1] + steps[-1:]
    last = thinned[-1][1] if thinned else run.summary.clean_accuracy.value
    return [(0.0, run.summary.clean_accuracy.value), *thinned, (max(run.info.curve), last)]


def points(run: Run) -> list[tuple[float, Any]]:
    """(eps, rate) of the curve, from the clean accuracy at 0 on."""
    found = {point.eps: point.robust_accuracy for point in run.summary.curve}
    found = {0.0: run.summary.clean_accuracy, **{run.summary.eps: run.summary.robust_accuracy}, **found}
    return sorted(found.items())


def waterfall(run: Run, *, width: int, colour: str = COLOURS[0]) -> alt.LayerChart:
    """What each stage took away, from all images down to those that held. Its bars are shares of all images."""
    n = max(len(run.outcomes), 1)
    rows, before = [], n
    for loss in condensed(losses(run)):
        name = "clean pass" if loss.stage == CLEAN else loss.stage
        spent = wording.count(loss.forwards + loss.backwards)
        text = f"{wording.count(loss.broken)} {'wrong' if loss.stage == CLEAN else 'broken'}, {spent} evaluations"
        if loss.stage == FAILED:
            text = f"{wording.count(loss.broken)} could not be evaluated"
        told = f"{name}: {text}; {wording.percent(loss.left / n)} left"
        bar = {"from": loss.left / n, "to": before / n, "colour": LOST}
        rows.append({"row": name, "text": text, **bar, "told": TOLD + told})
        before = loss.left
    rows.append({"row": "still right", "text": wording.count(before), "from": 0.0, "to": before / n, "colour": colour})
    rows[-1]["told"] = f"{TOLD}still right: {wording.percent(before / n)}"
    for place, row in enumerate(rows):
        row["place"] = place
    y = alt.Y("place:O").axis(None).scale(paddingInner=0.62, paddingOuter=0.31)
    base = alt.Chart(table(rows)).encode(y=y)
    x = alt.X("from:Q").title(None).scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5, domain=False, grid=False)
    track = base.mark_bar(color=TRACK).encode(x=alt.datum(0), x2=alt.datum(1))
    bars = base.mark_bar(aria=True).encode(
        x=x, x2="to:Q", color=alt.Color("colour:N").scale(None), description="told:N"
    )
    # Two texts share a line: the name is cut where the count, about 6 pixels a sign, begins.
    room = max(40, width - 40 - 6 * max(len(row["text"]) for row in rows))
    # The text stands above its bar: beside it there is no room where a bar spans everything.
    label = base.mark_text(align="left", baseline="bottom", dy=-11, fontSize=12, color=INK, fontWeight=600, limit=room)
    note = base.mark_text(align="right", baseline="bottom", dy=-11, fontSize=12, color=MUTED)
    texts = label.encode(text="row:N", x=alt.value(0)), note.encode(text="text:N", x=alt.value(width - 24))
    return styled(alt.layer(track, bars, *texts).properties(width=width - 24, height=46 * len(rows)))


def margins(runs: Sequence[Run], *, width: int) -> alt.VConcatChart:
    """How far every image is from its decision boundary, in logits: one histogram a run, over one scale."""
    tallies = bins(runs)
    top = max((bar.share for tally in tallies for bar in tally), default=1.0)
    ends = [edge for tally in tallies for bar in tally for edge in (bar.low, bar.high)] or [-1.0, 1.0]
    panels = []
    for place, (run, tally) in enumerate(zip(runs, tallies)):
        last = place == len(runs) - 1
        held = COLOURS[place % len(COLOURS)]
        rows = [
            {
                "low": b.low,
                "high": b.high,
                "share": b.share,
                "colour": LOST if b.high <= 0 else held,
                "told": f"{TOLD}{b.count} of {len(run.outcomes)} images between {b.low:g} and {b.high:g}",
            }
            for b in tally
        ]
        title = "smallest margin found, in logits" if last else None
        x = (
            alt.X("low:Q")
            .title(title)
            .scale(domain=[min(ends), max(ends)], nice=False)
            .axis(grid=False, labels=last, ticks=last, labelFlush=False)
        )
        y = alt.Y("share:Q").title(None).scale(domain=[0, top]).axis(labelExpr=PERCENT, tickCount=3)
        bars = (
            alt.Chart(table(rows))
            .mark_bar(binSpacing=1, aria=True)
            .encode(
                x=x, x2="high:Q", y=y, y2=alt.datum(0), color=alt.Color("colour:N").scale(None), description="told:N"
            )
        )
        zero = alt.Chart(table([{"low": 0.0}])).mark_rule(color=INK).encode(x="low:Q")
        sides = [
            alt.Chart(table([{"low": 0.0}]))
            .mark_text(text=word, align=side, dx=step, dy=-5, baseline="bottom", color=MUTED, fontSize=11)
            .encode(x="low:Q", y=alt.value(0))
            for word, side, step in (("broken", "right", -5), ("held", "left", 5))
        ]
        head = alt.Title(run.label, anchor="start", fontSize=12, color=INK, limit=width - 60, offset=4)
        panel = alt.layer(bars, zero, *(sides if place == 0 else ())).properties(width=width - 60, height=120)
        panels.append(panel.properties(title=head) if len(runs) > 1 else panel)
    return styled(alt.vconcat(*panels, spacing=18))


def svg(chart: Any) -> str:
    """The chart as an SVG element to stand in a page: no outer size, no ids that could meet another chart's.

    Drawing a chart twice gives the same text: the ids of Vega's clip paths, which count on through the whole process,
    are dropped together with the paths. No chart draws outside its frame.
    """
    # Its parts were held against the schema when they were made; to do so with the whole takes as long as to draw it.
    specification = chart.to_dict(validate=False)
    drawn = vl_convert.vegalite_to_svg(specification, vl_version=alt.SCHEMA_VERSION.rpartition(".")[0])
    xml.register_namespace("", _SVG)
    xml.register_namespace("xlink", _XLINK)  # a page knows the link of a picture in a drawing by this prefix alone
    root = xml.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            drawn = child.get("d") or len(child) or child.text or not child.tag.endswith("path")
            if child.tag.endswith("defs") or not drawn or child.get("class") in ("background", "foreground"):
                parent.remove(child)
        if (told := parent.get("aria-label", "")).startswith(TOLD):
            title = xml.SubElement(parent, f"{{{_SVG}}}title")
            title.text = told.removeprefix(TOLD)
        for key in (
            "aria-label",
            "role",
            "aria-roledescription",
            "aria-hidden",
            "pointer-events",
            "clip-path",
            "font-family",
        ):
            parent.attrib.pop(key, None)
        _shorten(parent.attrib)
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    root.attrib.update({"viewBox": f"0 0 {width} {height}", "width": width, "height": height, "aria-hidden": "true"})
    return xml.tostring(root, encoding="unicode")


def _shorten(attributes: dict[str, str]) -> None:
    """Drops what says nothing, and digits of pixels beyond the second: about an eighth of a drawing."""
    for key, value in list(attributes.items()):
        if key == "class":
            value = " ".join(name for name in value.split() if name in _STYLED)
        elif not key.endswith("href"):
            value = _FINE.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
        if value and (key, value) not in (("opacity", "1"), ("transform", "translate(0,0)")):
            attributes[key] = value
        else:
            del attributes[key]


def save_png(chart: Any, path: Path) -> Path:
    """Writes the same chart as a PNG on white, at twice its size for sharp print."""
    chart.properties(background="white").save(str(path), format="png", scale_factor=2)
    return path


def table(rows: list[dict[str, Any]]) -> alt.InlineData:
    """Rows as a chart's own data."""
    return alt.InlineData(values=rows)


def cycle(values: Sequence[str], num: int) -> list[str]:
    """``num`` of the values, from the start again after the last."""
    return [values[place % len(values)] for place in range(num)]


def _spread(values: list[float], num: int) -> list[float]:
    """At most about ``num`` of the values, far enough apart for their labels, the last one always among them."""
    apart = (values[-1] - values[0]) / num
    kept: list[float] = []
    for value in reversed(values):
        if not kept or kept[-1] - value >= apart:
            kept.append(value)
    return kept[::-1]


def styled(chart: Any) -> Any:
    """The chart in the page's look."""
    axis = {"labelColor": MUTED, "titleColor": MUTED, "gridColor": RULE, "domainColor": RULE, "tickColor": RULE}
    sizes: dict[str, Any] = {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelPadding": 5,
    }
    return chart.configure(
        background="transparent",
        font=FONT,
        aria=False,
        padding={"left": 2, "right": 12, "top": 4, "bottom": 2},
        axis=alt.AxisConfig(**axis, **sizes),
        legend=alt.LegendConfig(
            titleColor=MUTED,
            titleFontSize=12,
            titleFontWeight="normal",
            labelColor=INK,
            labelFontSize=12,
            symbolStrokeWidth=2.2,
            rowPadding=4,
        ),
        view=alt.ViewConfig(stroke=None),
    )
