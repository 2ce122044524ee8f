"""The pictures of docs/scaling.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from holdfast.report.charts import COLOURS, LOST, MUTED, SHAPES, styled, table

DEVICES = {"core": "a core as measured", "accelerator": "an accelerator, assumed"}


def _x(width: int) -> alt.X:
    return (
        alt.X("devices:Q", scale=alt.Scale(type="log", base=2, domain=[1, 1024]))
        .title("devices")
        .axis(values=[2**k for k in range(0, 11, 2)], format="~d", grid=False)
    )


def scaling(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and efficiency against the number of devices, where these are not equally fast; grey: the time of one over W."""
    rows, ideal = [], []
    for curve in curves:
        if not curve["spread"]:
            continue
        name = f"{curve['plan']}, {curve['samples']:,}"
        where = {"curve": name, "device": DEVICES[curve["device"]]}
        rows += [where | {key: point[key] for key in ("devices", "seconds", "efficiency")} for point in curve["points"]]
        one = curve["points"][0]["seconds"]
        ideal += [where | {"devices": point["devices"], "seconds": one / point["devices"]} for point in curve["points"]]
    names = list(dict.fromkeys(row["curve"] for row in rows))
    legend = alt.Legend(title="plan, samples", orient="top", columns=4)
    colour = alt.Color("curve:N").scale(domain=names, range=COLOURS[: len(names)]).legend(legend)
    shape = alt.Shape("curve:N").scale(domain=names, range=SHAPES[: len(names)]).legend(legend)
    down = []
    for field, title, scale, form in (
        ("seconds", "seconds", alt.Scale(type="log"), {"values": [10**k for k in range(-1, 8)], "format": "~s"}),
        ("efficiency", "efficiency", alt.Scale(domain=[0, 1]), {"format": "%", "tickCount": 6}),
    ):
        across = []
        for device in DEVICES.values():
            here = [row for row in rows if row["device"] == device]
            y = alt.Y(f"{field}:Q", scale=scale).title(title).axis(**form)
            base = alt.Chart(table(here)).encode(x=_x(300), y=y, color=colour)
            layers = [
                base.mark_line(strokeWidth=2),
                base.mark_point(filled=True, size=40, opacity=1).encode(shape=shape),
            ]
            if field == "seconds":
                best = alt.Chart(table([row for row in ideal if row["device"] == device]))
                layers.insert(
                    0,
                    best.mark_line(color=LOST, strokeDash=[4, 3], strokeWidth=1.2).encode(
                        x=_x(300), y=y, detail="curve:N"
                    ),
                )
            across.append(alt.layer(*layers).properties(width=330, height=220, title=device))
        down.append(alt.hconcat(*across, spacing=36))
    _save(alt.vconcat(*down, spacing=26), path)


def breakdown(curves: Sequence[dict[str, Any]], parts: Sequence[str], path: Path) -> None:
    """What the time of the devices goes into, by their number: 10,000 samples, devices not equally fast."""
    palette = [*COLOURS, MUTED, LOST]
    charts = []
    for curve in curves:
        if not curve["spread"] or curve["samples"] != 10_000:
            continue
        rows = [
            {"devices": str(point["devices"]), "part": part, "share": point["shares"][part], "order": place}
            for point in curve["points"]
            for place, part in enumerate(parts)
        ]
        worlds = [str(point["devices"]) for point in curve["points"]]
        charts.append(
            alt.Chart(table(rows))
            .mark_bar()
            .encode(
                x=alt.X("devices:N", sort=worlds).title("devices").axis(labelAngle=0, labelFontSize=9),
                y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1])).title("share of all devices' time").axis(format="%"),
                color=alt.Color("part:N")
                .scale(domain=list(parts), range=palette)
                .legend(alt.Legend(title=None, orient="top", columns=4)),
                order="order:Q",
            )
            .properties(width=330, height=200, title=f"{curve['plan']}, {DEVICES[curve['device']]}")
        )
    pairs = [alt.hconcat(*charts[i : i + 2], spacing=36) for i in range(0, len(charts), 2)]
    _save(alt.vconcat(*pairs, spacing=26), path)


def _save(chart: alt.VConcatChart, path: Path) -> None:
    styled(chart).properties(background="white").save(path, scale_factor=1.4)
