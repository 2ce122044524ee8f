"""The figures of the gradients: maps on one scale, and their numbers with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import torch
from torch import Tensor

from holdfast.explain.compare import median
from holdfast.explain.drawing import Picture, film, finished
from holdfast.explain.found import Figure, Found
from holdfast.report.charts import COLOURS, MUTED, cycle, table

NOISE = "noise"
COMPARED = {
    "image": "cosine with image",
    "classes": "cosine with class difference",
    "object": "share on object",
    "gini": "Gini",
    "stability": "stability",
}
"""What nets are compared by: the key of an array -> what it is called."""
SHOWN, BYTES = 8, 2_000_000
"""Images whose maps are drawn, if their arrays stay below so much."""
SIGMAS = 3.0
MORE, LESS = (33, 102, 172), (178, 24, 43)
"""Blue and red (ColorBrewer's RdBu), which colour-blind readers can tell apart."""
ACROSS = 3
"""Panels in a row."""


def drawn(y: np.ndarray, rows: int, size: int) -> np.ndarray:
    """The places of the images that are drawn: the first of every class, then others, as many as the arrays may hold."""
    _, first = np.unique(y, return_index=True)
    rest = np.setdiff1d(np.arange(len(y)), first)
    return np.concatenate([np.sort(first), rest])[: max(1, min(SHOWN, BYTES // (2 * rows * size)))]


def scaled(
    maps: Mapping[str, Tensor], trained: Sequence[str], scale: Literal["shared", "own"]
) -> tuple[np.ndarray, np.ndarray]:
    """Maps in units of their scale, (nets, n, C, H, W) float16, and the scales, (nets, n): 3 standard deviations over all
    values of a map; ``shared``: of the widest map that a trained net has of that image."""
    taken = torch.stack(list(maps.values())).nan_to_num(0, 0, 0)
    units = SIGMAS * taken.flatten(2).std(2, correction=0)
    if scale == "shared":
        units = units[[place for place, name in enumerate(maps) if name in trained]].amax(0).expand_as(units)
    in_units = taken / units.clamp_min(torch.finfo(taken.dtype).tiny)[:, :, None, None, None]
    return in_units.clamp(-100, 100).numpy().astype(np.float16), units.numpy()


def coloured(values: np.ndarray) -> np.ndarray:
    """A map (C, H, W) in units of its scale as a picture (3, H, W) in [0, 1]. Three channels: -1 to 1 becomes 0 to 1, each
    by itself, 0 mid-grey. Else their sum: from red through white, at 0, to blue."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 3:
        return (values.clip(-1, 1) + 1) / 2
    one = values.sum(0).clip(-1, 1)[..., None]
    return (1 - np.abs(one) * (1 - np.where(one > 0, MORE, LESS) / 255)).transpose(2, 0, 1)


def figures(found: Found) -> tuple[Figure, ...]:
    words, drawings = found.words, []
    for name in words["maps"]:
        maps, nets = found.arrays[f"map/{name}"], [*words["nets"], NOISE]
        rows = [("image", [Picture(each) for each in found.arrays["images"]])]
        rows += [(net, [Picture(coloured(one)) for one in row]) for net, row in zip(nets, maps)]
        grey = maps.shape[2] != 3
        what = f"Gradient of the loss ({words['loss']})" if name == "gradient" else name.replace("_", " ").capitalize()
        one = "all rows of a column on one scale" if words["scale"] == "shared" else "each on its own scale"
        caption = f"{what}, {one}, clipped at {SIGMAS:.0f} standard deviations"
        chart = film(rows, heads=words["labels"])
        drawings.append(
            Figure(name, f"{caption}; white is 0.", finished(chart, _bar(name)))
            if grey
            else Figure(name, f"{caption}; mid-grey is 0, each colour by itself.", finished(chart))
        )
    return (*drawings, Figure("numbers", "Medians over images with their intervals.", finished(_dots(found))))


def _bar(name: str) -> Any:
    """A strip of the colours, with what they mean below."""
    steps = 121
    ramp = np.rint(255 * coloured(np.linspace(-1, 1, steps)[None, None])[:, 0].T).astype(int).tolist()
    rows = [
        {"x": place / steps, "x2": min(1.0, (place + 1.5) / steps), "colour": f"rgb({red},{green},{blue})"}
        for place, (red, green, blue) in enumerate(ramp)
    ]
    what = "the loss" if name == "gradient" else "the right answer"
    verbs = ("a brighter pixel lowers", "raises") if name == "gradient" else ("speaks against", "speaks for")
    ends = (("left", 0.0, f"{verbs[0]} {what}"), ("center", 0.5, "0"), ("right", 1.0, f"{verbs[1]} {what}"))
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False))
    strip = alt.Chart(table(rows)).mark_rect().encode(x=x, x2="x2:Q", color=alt.Color("colour:N").scale(None))
    words = [
        alt.Chart(table([{"x": place, "word": word}]))
        .mark_text(align=side, baseline="top", fontSize=11, color=MUTED)
        .encode(x=x, text="word:N", y=alt.value(16))
        for side, place, word in ends
    ]
    return alt.layer(strip, *words).properties(width=360, height=10)


def _dots(found: Found) -> Any:
    """A panel for each number, a row for each net."""
    words, nets, panels = found.words, [*found.words["nets"], NOISE], []
    colour = alt.Color("net:N").scale(domain=nets, range=[*cycle(COLOURS, len(nets) - 1), MUTED]).legend(None)
    for key in (key for key in COMPARED if key in words["keys"]):
        rows = []
        for net in nets:
            each = median(found.arrays[f"{net}/{key}"], seed=words["seed"], confidence=words["confidence"])
            if each.n:
                rows.append({"net": net, "value": each.value, "low": each.low, "high": each.high})
        axis = alt.Axis(labels=len(panels) % ACROSS == 0, ticks=False, domain=False, grid=True, labelLimit=140)
        base = alt.Chart(table(rows)).encode(y=alt.Y("net:N", axis=axis, title=None).scale(domain=nets), color=colour)
        across = alt.X("value:Q").title(COMPARED[key]).scale(zero=True).axis(tickCount=4, grid=False)
        bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
        dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=across)
        panels.append(alt.layer(bars, dots).properties(width=170, height=26 * len(nets)))
    rows_ = [alt.hconcat(*panels[start : start + ACROSS], spacing=20) for start in range(0, len(panels), ACROSS)]
    return alt.vconcat(*rows_, spacing=14)
