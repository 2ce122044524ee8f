"""Decision regions before and after, with points, squares, and where the grid broke them; what attacks miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import altair as alt
import torch

from holdfast.experiments.perceptron import Perceptron
from holdfast.experiments.toys.judged import Judged
from holdfast.report.charts import COLOURS, INK, MUTED, cycle, table

CELLS, SIDE = 200, 320
"""Cells on a side of the drawn regions, and pixels on a side of a panel."""
PALE = ("#bfdcee", "#f7d9bf")
"""The classes' colours, as a background."""
NAMES = ("class 0", "class 1", "worst point of a broken square")


def beside(nets: Sequence[Judged], *, shown: int) -> Any:
    """A panel for each net on the same toy, under one legend; the first ``shown`` points are drawn."""
    panels = [_panel(each, shown, first=not place) for place, each in enumerate(nets)]
    return alt.hconcat(*panels, spacing=24).resolve_scale(color="shared", shape="shared")


def misses(missed: Mapping[str, Sequence[int]], every: Sequence[Judged]) -> Any:
    """Bars: how many of the squares that the grid breaks each attack misses, net by net."""
    nets = [f"{each}: {int(each.truth.broken.sum())} broken" for each in every]
    rows = [
        {"net": net, "attack": name, "missed": count}
        for name, counts in missed.items()
        for net, count in zip(nets, counts)
    ]
    legend = alt.Legend(title=None, orient="top", columns=3, symbolOpacity=1, labelLimit=300, offset=10)
    down = alt.Y("net:N").title(None).scale(domain=nets, paddingInner=0.35)
    down = down.axis(labelLimit=300, labelPadding=12, ticks=False, domain=False)
    across = alt.X("missed:Q").title("squares that the grid breaks and the attack misses")
    across = across.axis(grid=False, tickMinStep=1).scale(domain=[0, max(1, *(row["missed"] for row in rows))])
    base = alt.Chart(table(rows)).encode(x=across, y=down, yOffset=alt.YOffset("attack:N", sort=list(missed)))
    colour = alt.Color("attack:N").scale(domain=list(missed), range=cycle(COLOURS, len(missed))).legend(legend)
    words = base.mark_text(align="left", dx=5, fontSize=11, color=INK).encode(text="missed:Q")
    return alt.layer(base.mark_bar().encode(color=colour), words).properties(width=440, height=54 * len(nets))


def _panel(net: Judged, shown: int, *, first: bool) -> Any:
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, 1], nice=False)).title("x1").axis(grid=False, tickCount=5)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, 1], nice=False)).title("x2" if first else None)
    y = y.axis(grid=False, tickCount=5)
    legend = alt.Legend(title=None, orient="top", columns=3, symbolOpacity=1, symbolSize=70, labelLimit=300, offset=10)
    colour = alt.Color("kind:N").scale(domain=NAMES, range=[*COLOURS[:2], INK]).legend(legend)
    shape = alt.Shape("kind:N").scale(domain=NAMES, range=["circle", "triangle-up", "diamond"]).legend(legend)
    ends = {"x2": "x2:Q", "y2": "y2:Q"}
    # A layer for each class: a colour of its own in the data would undo the scale that the points' legend needs.
    regions = [
        alt.Chart(table(rows)).mark_rect(color=pale, stroke=pale, strokeWidth=0.8).encode(x=x, y=y, **ends)
        for pale, rows in zip(PALE, _regions(net.net))
    ]
    eps, broken = net.toy.eps, net.truth.broken[:shown].tolist()
    middles = net.toy.judged_x[:shown].tolist()
    squares = [
        {"x": a - eps, "x2": a + eps, "y": b - eps, "y2": b + eps, "broken": lost}
        for (a, b), lost in sorted(zip(middles, broken), key=lambda each: each[1])
    ]
    drawn = alt.Chart(table(squares)).mark_rect(filled=False)
    drawn = drawn.encode(
        x=x,
        y=y,
        stroke=alt.condition(alt.datum.broken, alt.value(INK), alt.value(MUTED)),
        strokeWidth=alt.condition(alt.datum.broken, alt.value(2), alt.value(0.8)),
        **ends,
    )
    points = [
        {"x": a, "y": b, "kind": NAMES[label]} for (a, b), label in zip(middles, net.toy.judged_y[:shown].tolist())
    ]
    worst = zip(net.truth.where[:shown].tolist(), broken)
    points += [{"x": a, "y": b, "kind": NAMES[2]} for (a, b), lost in worst if lost]
    dots = alt.Chart(table(points)).mark_point(filled=True, size=46, opacity=1, stroke="white", strokeWidth=0.7)
    dots = dots.encode(x=x, y=y, color=colour, shape=shape)
    safe, n = int((~net.truth.broken).sum()), len(net.right)
    title = alt.Title(
        f"{net.training} training",
        subtitle=f"{safe} of {n} squares safe by the grid" + (f", {shown} drawn" if shown < n else ""),
        anchor="start",
        fontSize=13,
        color=INK,
        subtitleColor=MUTED,
        offset=8,
    )
    return alt.layer(*regions, drawn, dots).properties(width=SIDE, height=SIDE, title=title)


def _regions(net: Perceptron) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Both classes over the unit square, as rectangles: neighbours of one class in a row of cells are one."""
    middles = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
    with torch.no_grad():
        labels = net(torch.cartesian_prod(middles, middles).flip(1)[:, None, None]).argmax(1).view(CELLS, CELLS)
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for row, values in enumerate(labels.tolist()):
        at = 0
        for label, run in groupby(values):
            end = at + len(list(run))
            found[label].append({"x": at / CELLS, "x2": end / CELLS, "y": row / CELLS, "y2": (row + 1) / CELLS})
            at = end
    return found
