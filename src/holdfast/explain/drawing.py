"""What several questions draw with: pictures in rows, and planes of pixels under axes with units.

Lines and dots with intervals are those of the experiments (`holdfast.experiments.charts`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from PIL import Image

from holdfast.report.charts import INK, MUTED, styled, table
from holdfast.report.pictures import data_uri

SIDE = 84
"""Pixels: of a picture in a row."""


@dataclass(frozen=True)
class Picture:
    """An image (C, H, W) in [0, 1], C of 1 or 3, and the words below it, in one line or two."""

    pixels: np.ndarray
    below: str = ""


def film(rows: Sequence[tuple[str, Sequence[Picture]]], *, heads: Sequence[str] = (), side: int = SIDE) -> Any:
    """Named rows of pictures, each with its words below; ``heads`` stand above the columns."""
    room = (
        30
        if any("\n" in each.below for _, row in rows for each in row)
        else 16
        if any(each.below for _, row in rows for each in row)
        else 2
    )
    step, tall, data = side + 8, side + room, []
    for down, (_, row) in enumerate(rows):
        for across, each in enumerate(row):
            data.append(
                {
                    "x": across * step,
                    "y": down * tall,
                    "under": down * tall + side + 3,
                    "url": data_uri(each.pixels, smooth=False),
                    "below": each.below.split("\n"),
                }
            )
    names = [{"x": -8, "y": down * tall + side / 2, "name": name.split("\n")} for down, (name, _) in enumerate(rows)]
    tops = [{"x": place * step + side / 2, "y": -6, "head": head} for place, head in enumerate(heads)]
    width, height = step * max((len(row) for _, row in rows), default=1), tall * max(1, len(rows))
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    under = alt.Y("under:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    base = alt.Chart(table(data)).encode(x=x)
    layers = [
        base.mark_image(width=side, height=side, align="left", baseline="top").encode(y=y, url="url:N"),
        base.mark_text(align="center", baseline="top", dx=side / 2, fontSize=10, lineHeight=12, color=INK).encode(
            y=under, text="below:N"
        ),
        alt.Chart(table(names))
        .mark_text(align="right", fontSize=11, lineHeight=13, color=INK)
        .encode(x=x, y=y, text="name:N"),
    ]
    if tops:
        layers.append(
            alt.Chart(table(tops))
            .mark_text(align="center", baseline="bottom", fontSize=11, color=MUTED)
            .encode(x=x, y=y, text="head:N")
        )
    return alt.layer(*layers).properties(width=width, height=height)


@dataclass(frozen=True)
class Plane:
    """A plane of pixels: colours (h, w, 3) uint8 whose first row is the highest value of y, and the axes' ends.

    ``outline``: the corners (x, y) of a line drawn on it. ``words``: places (x, y) and what is written there.
    """

    title: str
    pixels: np.ndarray
    x: tuple[float, float]
    y: tuple[float, float]
    outline: Sequence[tuple[float, float]] = ()
    words: Sequence[tuple[float, float, str]] = ()


def planes(
    rows: Sequence[Sequence[Plane]], *, x: str, y: str, side: int = 190, box: float | None = None, cross: bool = True
) -> Any:
    """Planes side by side, in rows, on the same axes. ``box``: half the side of a square that is drawn around 0, where a
    ``cross`` stands."""
    drawn = []
    for down, row in enumerate(rows):
        panels = []
        for across, plane in enumerate(row):
            panels.append(
                _panel(
                    plane,
                    x=x if down == len(rows) - 1 else None,
                    y=y if not across else None,
                    side=side,
                    box=box,
                    cross=cross,
                )
            )
        drawn.append(alt.hconcat(*panels, spacing=18))
    return alt.vconcat(*drawn, spacing=12)


def finished(*charts: Any) -> Any:
    """Charts below one another, each with its own colours, in the look of the report."""
    return styled(
        alt.vconcat(*charts, spacing=22).resolve_scale(color="independent", shape="independent")
        if len(charts) > 1
        else charts[0]
    )


def _panel(plane: Plane, *, x: str | None, y: str | None, side: int, box: float | None, cross: bool) -> Any:
    across = alt.X("x:Q", scale=alt.Scale(domain=list(plane.x), nice=False)).title(x).axis(grid=False, tickCount=5)
    up = alt.Y("y:Q", scale=alt.Scale(domain=list(plane.y), nice=False)).title(y).axis(grid=False, tickCount=5)
    corner = table([{"x": plane.x[0], "y": plane.y[1], "url": _uri(plane.pixels, side)}])
    layers = [
        alt.Chart(corner)
        .mark_image(width=side, height=side, align="left", baseline="top", aspect=False)
        .encode(x=across, y=up, url="url:N")
    ]
    if box is not None:
        edge = table([{"x": -box, "x2": box, "y": -box, "y2": box}])
        layers.append(
            alt.Chart(edge)
            .mark_rect(filled=False, stroke="black", strokeWidth=1.5)
            .encode(x="x:Q", x2="x2:Q", y="y:Q", y2="y2:Q")
        )
    if plane.outline:
        corners = [{"x": right, "y": high, "order": place} for place, (right, high) in enumerate(plane.outline)]
        drawn = alt.Chart(table(corners)).encode(x="x:Q", y="y:Q", order="order:Q")
        layers += [
            drawn.mark_line(color=colour, strokeWidth=wide, clip=True, interpolate="linear")
            for colour, wide in (("white", 3.5), ("black", 1.5))
        ]
    if plane.words:
        places = [{"x": right, "y": high, "word": word} for right, high, word in plane.words]
        written = alt.Chart(table(places)).encode(x="x:Q", y="y:Q", text="word:N")
        layers += [
            written.mark_text(fontSize=12, fontWeight="bold", color="white", stroke="white", strokeWidth=3),
            written.mark_text(fontSize=12, fontWeight="bold", color="black"),
        ]
    if cross:
        layers.append(
            alt.Chart(table([{"x": 0, "y": 0}]))
            .mark_point(shape="cross", filled=True, size=60, color="black", stroke="white", strokeWidth=1, opacity=1)
            .encode(x="x:Q", y="y:Q")
        )
    title = alt.Title(plane.title, anchor="start", fontSize=12, color=INK, offset=6)
    return alt.layer(*layers).properties(width=side, height=side, title=title)


def _uri(pixels: np.ndarray, side: int) -> str:
    """A plane as a PNG data URI, enlarged so that no viewer smooths the edges of its pixels."""
    factor = max(1, -(-2 * side // max(pixels.shape[:2])))
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
