"""The figures of the question about stability: the norms of layers, and brackets from certificate to attack."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from holdfast.explain.drawing import finished
from holdfast.explain.found import Figure, Found
from holdfast.report.charts import COLOURS, INK, MUTED, cycle, table

ONE = 1e-6
"""Norms that are nearer to 1 are 1."""


def figures(found: Found) -> tuple[Figure, ...]:
    """From what `holdfast.explain.questions.lipschitz` found; none where no net was bounded."""
    if not found.words.get("nets"):
        return ()
    layers = (
        "L2 norm of every layer: attained (bar) and certified (tick), in the order of the layers. Layers of norm 1 "
        "are left out."
    )
    brackets = (
        "From the certified L2 radius (tick) to the nearest wrong answer found (dot), a line for each image, in the "
        "order of the latter. Images that are wrong already, and those that the attack did not break, are left out."
    )
    return Figure("layers", layers, finished(_bars(found))), Figure("brackets", brackets, finished(_brackets(found)))


def _bars(found: Found) -> Any:
    """A panel for each kind of net: those whose layers have the same names stand beside one another in each layer."""
    nets, words = found.words["nets"], found.words["layers"]
    rows = [
        {"net": name, "layer": layer, "lower": float(low), "upper": float(high)}
        for name in nets
        for layer, low, high in zip(words[name], found.arrays[f"{name}/lower"], found.arrays[f"{name}/upper"])
        if low > 0
    ]
    stretching = {row["layer"] for row in rows if max(abs(row["lower"] - 1), abs(row["upper"] - 1)) > ONE}
    rows = [row for row in rows if row["layer"] in stretching]
    if not rows:
        return alt.Chart(table([{"x": 0}])).mark_text(text="no layer stretches anything", color=MUTED)
    ends = 0.9 * min(1, *(row["lower"] for row in rows)), 1.1 * max(1, *(row["upper"] for row in rows))
    groups = [
        [name for name in nets if tuple(words[name]) == each] for each in dict.fromkeys(map(tuple, words.values()))
    ]
    panels = [
        _panel([row for row in rows if row["net"] in group], group, nets, ends, last=group is groups[-1])
        for group in groups
    ]
    return panels[0] if len(panels) == 1 else alt.vconcat(*panels, spacing=10).resolve_scale(yOffset="independent")


def _panel(
    rows: list[dict[str, Any]], group: list[str], nets: list[str], ends: tuple[float, float], *, last: bool
) -> Any:
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    down = alt.Y("layer:N").title(None).scale(domain=layers).axis(ticks=False, domain=False, labelLimit=200)
    base = alt.Chart(table(rows)).encode(y=down, yOffset=alt.YOffset("net:N", sort=group))
    across = alt.X("lower:Q").title("L2 norm" if last else None).scale(type="log", nice=False, domain=list(ends))
    across = across.axis(format="~g", tickCount=6, labels=last)
    bars = base.mark_bar().encode(x=across, x2=alt.datum(1), color=_colour(nets))
    ticks = base.mark_tick(thickness=2, color=INK).encode(x="upper:Q")
    return alt.layer(bars, ticks).properties(width=480, height=max(40, 16 * len(group) * len(layers)))


def _brackets(found: Found) -> Any:
    nets, arrays = found.words["nets"], found.arrays
    panels, ends = [], []
    for name in nets:
        low, high = arrays[f"{name}/radii"], arrays[f"{name}/attack"]
        both = (low > 0) & (high > 0) & np.isfinite(low)
        order = np.argsort(high[both], kind="stable")
        rows = [
            {"place": place, "low": float(one), "high": float(other)}
            for place, (one, other) in enumerate(zip(low[both][order], high[both][order]), start=1)
        ]
        panels.append((name, rows))
        ends += [row[key] for row in rows for key in ("low", "high")]
    if not ends:
        return alt.Chart(table([{"x": 0}])).mark_text(text="no image has a bracket", color=MUTED).properties(width=480)
    scale = alt.Scale(type="log", domain=[0.8 * min(ends), 1.25 * max(ends)], nice=False)
    drawn = []
    for place, (name, rows) in enumerate(panels):
        last = place == len(panels) - 1
        across = alt.X("low:Q").title("L2 distance from the image" if last else None).scale(scale)
        across = across.axis(format="~g", tickCount=6, labels=last, ticks=last)
        down = (
            alt.Y("place:Q")
            .title("images")
            .axis(labels=False, ticks=False, grid=False)
            .scale(nice=False, zero=False, padding=4)
        )
        base = alt.Chart(table(rows)).encode(y=down)
        colour = cycle(COLOURS, len(nets))[place]
        layers = [
            base.mark_rule(strokeWidth=1.5, color=colour, opacity=0.6).encode(x=across, x2="high:Q"),
            base.mark_tick(orient="vertical", thickness=2, size=5, color=colour).encode(x=across),
            base.mark_point(filled=True, size=14, opacity=1, color=colour).encode(x="high:Q"),
        ]
        title = alt.Title(f"{name}, {len(rows)} images", anchor="start", fontSize=12, color=INK, offset=4)
        drawn.append(alt.layer(*layers).properties(width=480, height=max(40, 3.5 * len(rows)), title=title))
    return alt.vconcat(*drawn, spacing=10)


def _colour(nets: list[str]) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", labelLimit=300, offset=10)
    return alt.Color("net:N").scale(domain=nets, range=cycle(COLOURS, len(nets))).legend(legend)
