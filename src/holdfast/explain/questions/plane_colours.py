"""Colours of planes: regions by class with their legend, and losses on one logarithmic scale with its bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from PIL import ImageColor
from scipy import ndimage

from holdfast.report.charts import INK, table

CLASSES = (
    *("#88ccee", "#cc6677", "#ddcc77", "#117733", "#332288", "#aa4499", "#44aa99", "#999933", "#882255"),
    "#6699cc",
)
"""Paul Tol's muted colours, which colour-blind readers can tell apart, and one more."""
OTHER = "#dddddd"
RISING = ("#00204d", "#2b446e", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#ffea46")
"""Cividis (Nunez, Anderton and Renslow, PLOS ONE 2018): even to the eye, and the same to colour-blind ones."""
FINE = 8
"""Into how many pixels a side a point of a plane is drawn out, where lines finer than a point are drawn."""
WIDE = 0.02
"""Half of a letter, as a share of the side of a plane."""
HATCHED = 0.5
"""The share of a displacement outside [0, 1] above which a point is hatched."""


def coloured(classes: Sequence[np.ndarray], names: Sequence[str]) -> dict[int, str]:
    """A colour for each class that several planes of classes show, the commonest first; the rest share ``OTHER``."""
    places, counts = np.unique(np.concatenate([each.ravel() for each in classes]), return_counts=True)
    known = [int(one) for one in places[np.argsort(-counts, kind="stable")]]
    # Few classes keep the colours of their numbers, so that figures about the same data agree.
    if len(names) <= len(CLASSES):
        return {one: CLASSES[one] for one in sorted(known)}
    return dict(zip(known, CLASSES))


def regions(classes: np.ndarray, colours: dict[int, str], outside: np.ndarray) -> np.ndarray:
    """Classes (B, A) as pixels (B FINE, A FINE, 3), the last row first; edges are white, points outside are hatched."""
    fine = _fine(classes[::-1])
    pixels = np.empty((*fine.shape, 3), np.uint8)
    for one in np.unique(fine):
        pixels[fine == one] = ImageColor.getrgb(colours.get(int(one), OTHER))
    down, right = np.indices(fine.shape)
    stripes = _fine(outside[::-1] > HATCHED) & ((down + right) % 12 < 3)
    pixels[stripes] = 255 - (255 - pixels[stripes]) // 3
    pixels[_edges(fine)] = 255
    return pixels


def inside_words(
    classes: np.ndarray, names: Sequence[str], a: np.ndarray, b: np.ndarray, *, least: float = 0.04
) -> list[tuple[float, float, str]]:
    """The name of each class in its largest region of a plane (B, A), away from the cross in the middle and from the edges;
    none for a class that fills less than a share of ``least`` of it in one piece."""
    found = []
    for one in np.unique(classes):
        parts, num = ndimage.label(classes == one)  # type: ignore[misc]
        sizes = ndimage.sum_labels(classes == one, parts, np.arange(1, num + 1))
        if sizes.max() < least * classes.size:
            continue
        free = parts == sizes.argmax() + 1
        free[len(b) // 2, len(a) // 2] = False
        depth = ndimage.distance_transform_edt(np.pad(free, 1))[1:-1, 1:-1]  # type: ignore[index]
        up, along = np.unravel_index(int(depth.argmax()), classes.shape)
        room = (a[-1] - a[0]) * min(0.45, WIDE * len(names[int(one)]))
        found.append((float(np.clip(a[along], a[0] + room, a[-1] - room)), float(b[up]), names[int(one)]))
    return found


def legend(colours: dict[int, str], names: Sequence[str], *, others: bool = False, width: int = 640) -> Any:
    """The classes beside their colours, in a line or two."""
    entries = [(names[one], colour) for one, colour in colours.items()] + ([("others", OTHER)] if others else [])
    room = max(40, 34 + 7 * max(len(name) for name, _ in entries))
    each = max(1, width // room)
    rows = [
        {"x": room * (place % each) + 6, "y": 18 * (place // each) + 9, "name": name, "colour": colour}
        for place, (name, colour) in enumerate(entries)
    ]
    tall = rows[-1]["y"] + 9
    base = alt.Chart(table(rows)).encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False)),
        y=alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[tall, 0], nice=False)),
    )
    squares = base.mark_square(size=150, opacity=1).encode(color=alt.Color("colour:N", scale=None))
    written = base.mark_text(align="left", dx=11, fontSize=12, color=INK).encode(text="name:N")
    return alt.layer(squares, written).properties(width=width, height=tall)


def shaded(loss: np.ndarray, top: float) -> np.ndarray:
    """Losses (B, A) as pixels (B, A, 3), the last row first: 0 is dark, ``top`` and more bright, evenly in log(1 + loss)."""
    stops = np.array([ImageColor.getrgb(each) for each in RISING], float)
    share = np.log1p(np.nan_to_num(loss[::-1], nan=top).clip(0, top)) / max(np.log1p(top), 1e-12)
    place = share * (len(stops) - 1)
    return np.stack([np.interp(place, np.arange(len(stops)), stops[:, each]) for each in range(3)], -1).astype(np.uint8)


def contoured(loss: np.ndarray, top: float, levels: Sequence[float]) -> np.ndarray:
    """Losses as `shaded` colours them, drawn out between the points, with white lines at the levels."""
    fine = ndimage.zoom(np.nan_to_num(loss, nan=top).clip(0, top), FINE, order=1, grid_mode=True, mode="nearest")
    pixels = shaded(fine, top)
    pixels[_edges(np.digitize(fine[::-1], levels))] = 255
    return pixels


def doublings(low: float, top: float) -> list[float]:
    """The powers of two between the two, the highest ten at most: the levels of contour lines."""
    if not top > 0:
        return []
    last = int(np.floor(np.log2(top)))
    return [2.0**power for power in range(last - 9, last + 1) if 2.0**power > low]


def bar(top: float, title: str, *, width: int = 300) -> Any:
    """The colours of losses from 0 to ``top``."""
    ends = np.expm1(np.linspace(0, np.log1p(top), 65))
    pixels = shaded((ends[:-1] + ends[1:])[None] / 2, top)[0]
    rows = [
        {"low": float(low), "high": float(high), "colour": "#{:02x}{:02x}{:02x}".format(*each)}
        for low, high, each in zip(ends, ends[1:], pixels.tolist())
    ]
    ticks = [0.0] + [
        each for each in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 1e4) if top / 40 < each <= top
    ]
    scale = alt.Scale(type="symlog", constant=1, domain=[0, top], nice=False)
    across = alt.X("low:Q", scale=scale, axis=alt.Axis(values=ticks, grid=False, labelExpr="datum.value")).title(title)
    return (
        alt.Chart(table(rows))
        .mark_rect(strokeWidth=1)
        .encode(
            x=across, x2="high:Q", color=alt.Color("colour:N", scale=None), stroke=alt.Stroke("colour:N", scale=None)
        )
        .properties(width=width, height=12)
    )


def _fine(values: np.ndarray) -> np.ndarray:
    return values.repeat(FINE, 0).repeat(FINE, 1)


def _edges(values: np.ndarray) -> np.ndarray:
    """Where a pixel differs from the one below or to its right."""
    found = np.zeros(values.shape, bool)
    found[:-1] |= values[:-1] != values[1:]
    found[:, :-1] |= values[:, :-1] != values[:, 1:]
    return found
