"""The figures of the question about frequencies: distances along bands, and maps of error."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from holdfast.explain.compare import median
from holdfast.explain.drawing import finished
from holdfast.explain.found import Figure, Found
from holdfast.report.charts import COLOURS, INK, PERCENT, SHAPES, cycle, table

SIDE = 170
"""Pixels of a map."""


def figures(found: Found) -> tuple[Figure, ...]:
    """From what `holdfast.explain.questions.frequencies` found."""
    margins = (
        "L2 distance to another answer along changes of one band of frequencies; medians over images, 95 % intervals. Any: "
        "as many coefficients drawn from all frequencies; all: without a restriction."
    )
    maps = (
        f"Error on images with one wave added, of root mean square {found.words['rms']:.3g}, at the place of its frequency; "
        "frequency 0 in the middle, one scale of colours."
    )
    return Figure("margins", margins, finished(_margins(found))), Figure("error_map", maps, finished(_maps(found)))


def _margins(found: Found) -> Any:
    nets, bands = found.words["nets"], found.words["bands"]
    places, rows = [*bands, "any", "all"], []
    for name in nets:
        for band, values in zip(places, found.arrays[f"{name}/away"]):
            each = median(np.minimum(values, found.words["farthest"]))
            rows.append({"net": name, "band": band, "value": each.value, "low": each.low, "high": each.high})
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, labelLimit=300, offset=10)
    colour = alt.Color("net:N").scale(domain=nets, range=cycle(COLOURS, len(nets))).legend(legend)
    shape = alt.Shape("net:N").scale(domain=nets, range=cycle(SHAPES, len(nets))).legend(legend)
    across = (
        alt.X("band:N", sort=places)
        .title("frequencies of the change, in cycles per pixel")
        .axis(labelAngle=0, grid=False, labelLimit=120)
    )
    up = alt.Y("value:Q").title("L2 distance to another answer").scale(type="log", nice=False, padding=10)
    base = alt.Chart(table(rows)).encode(x=across, color=colour)
    ordered = base.transform_filter(alt.FieldOneOfPredicate("band", bands))
    return alt.layer(
        ordered.mark_line(strokeWidth=2).encode(y=up.axis(format="~g", tickCount=5)),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(y="value:Q", shape=shape),
    ).properties(width=560, height=260)


def _maps(found: Found) -> Any:
    nets, arrays = found.words["nets"], found.arrays
    down, across = _edges(arrays["down"]), _edges(arrays["across"])
    top = max(float(arrays[f"{name}/error"].max()) for name in nets)
    scale = alt.Scale(scheme="viridis", domain=[0, max(top, 0.01)])
    legend = alt.Legend(title="error", labelExpr=PERCENT, gradientLength=SIDE - 30, tickCount=4)
    panels = []
    for place, name in enumerate(nets):
        rows = [
            {"x": across[j], "x2": across[j + 1], "y": down[i], "y2": down[i + 1], "error": float(error)}
            for (i, j), error in np.ndenumerate(arrays[f"{name}/error"])
        ]
        x = alt.X("x:Q").title("cycles per pixel, across").scale(domain=[across[0], across[-1]], nice=False)
        y = alt.Y("y:Q").title("cycles per pixel, down" if not place else None)
        y = y.scale(domain=[down[0], down[-1]], nice=False).axis(grid=False, values=[-0.5, 0, 0.5])
        squares = (
            alt.Chart(table(rows))
            .mark_rect(strokeWidth=0)
            .encode(
                x=x.axis(grid=False, values=[-0.5, 0, 0.5]),
                x2="x2:Q",
                y=y,
                y2="y2:Q",
                color=alt.Color("error:Q").scale(scale).legend(legend),
            )
        )
        title = alt.Title(name, anchor="start", fontSize=12, color=INK, offset=6)
        panels.append(squares.properties(width=SIDE, height=SIDE, title=title))
    return alt.concat(*panels, columns=3, spacing=16).resolve_scale(color="shared")


def _edges(values: np.ndarray) -> list[float]:
    """Half-way between neighbours, and as far beyond the ends."""
    if len(values) == 1:
        return [-0.5, 0.5]
    middles = (values[1:] + values[:-1]) / 2
    return [float(2 * values[0] - middles[0]), *map(float, middles), float(2 * values[-1] - middles[-1])]
