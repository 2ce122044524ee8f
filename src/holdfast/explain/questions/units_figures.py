"""The figures of the question about units: purities, the images behind them, and images that excite the same directions."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import torch
from torch import Tensor, nn

from holdfast.explain.compare import mean
from holdfast.explain.drawing import Picture, film, finished
from holdfast.explain.found import Figure, Found
from holdfast.report.charts import COLOURS, INK, MUTED, PERCENT, SHAPES, table

BASES = ("units", "random", "whitened", "PCA")
"""The kinds of directions, as tables, arrays and legends call them."""
LARGEST = 40
"""Pixels a side of the images that are kept for drawing, at most."""


def figures(found: Found) -> tuple[Figure, ...]:
    """From what `holdfast.explain.questions.units` found."""
    words, arrays = found.words, found.arrays
    k, drawn = words["k"], []
    if words["nets"]:
        caption = (
            f"Mean purity of the labels of the {k} top images, 95 % intervals over directions; below, that of the "
            "natural basis (dot) among those of rotated ones (ticks)."
        )
        drawn.append(Figure("purity", caption, _purities(found)))
    for place, name in enumerate(words["nets"]):
        named = zip(words["shown"][name], arrays[f"{name}/purity:shown"], arrays[f"{name}/top"])
        rows = [
            (f"{label}\npurity {float(share):.2f}", [Picture(image / 255) for image in images])
            for label, share, images in named
        ]
        caption = (
            f"{name}, {words['layers'][name]}: the {k} images that excite a direction most, in that order. Units and "
            "random directions as drawn, not picked."
        )
        drawn.append(Figure(f"top_images_{place + 1}", caption, finished(film(rows, side=34))))
    if any(f"{name}/excited" in arrays for name in words["nets"]):
        excited = [(name, _excited(arrays[f"{name}/excited"], words["shown"][name])) for name in words["nets"]]
        caption = (
            "Images that excite the same directions, by ascent in pixels from the mean of the images, which comes first. "
            "Silent: nothing there excites the direction at all."
        )
        drawn.append(Figure("excited", caption, finished(film(excited))))
    return tuple(drawn)


def _excited(images: np.ndarray, labels: list[str]) -> list[Picture]:
    """The image that all began at, then what became of it for each direction."""
    found = [Picture(images[0] / 255, "start")]
    for label, image in zip(labels, images[1:]):
        found.append(Picture(image / 255, label + ("\nsilent" if np.array_equal(image, images[0]) else "")))
    return found


def small(images: Tensor) -> np.ndarray:
    """Images as uint8, averaged down to `LARGEST` pixels a side where they are larger."""
    height, width = (min(LARGEST, side) for side in images.shape[2:])
    pixels = nn.functional.adaptive_avg_pool2d(images.float(), (height, width))
    return (pixels * 255).round().to(torch.uint8).cpu().numpy()


def _purities(found: Found) -> Any:
    """Above, the kinds of directions of each net; below, its natural basis among rotated ones."""
    nets, arrays = found.words["nets"], found.arrays
    rows = []
    for name in nets:
        for basis in BASES:
            each = mean(arrays[f"{name}/purity:{basis}"])
            rows.append({"net": name, "basis": basis, "value": each.value, "low": each.low, "high": each.high})
    down = alt.Y("net:N").title(None).scale(domain=nets)
    down = down.axis(labelLimit=260, labelPadding=12, ticks=False, domain=False, grid=False)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, offset=10)
    colour = alt.Color("basis:N").scale(domain=list(BASES), range=list(COLOURS[: len(BASES)])).legend(legend)
    shape = alt.Shape("basis:N").scale(domain=list(BASES), range=list(SHAPES[: len(BASES)])).legend(legend)
    base = alt.Chart(table(rows)).encode(y=down, yOffset=alt.YOffset("basis:N", sort=list(BASES)), color=colour)
    title = f"mean purity of the {found.words['k']} top images"
    across = alt.X("value:Q").title(title).scale(domain=[0, 1]).axis(labelExpr=PERCENT, tickCount=5)
    chance = alt.Chart(table([{"value": found.words["chance"]}])).encode(x="value:Q")
    word = chance.mark_text(align="left", baseline="top", dx=4, dy=2, fontSize=11, color=MUTED, text="by chance")
    above = alt.layer(
        chance.mark_rule(color=INK, strokeDash=[2, 3]),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=across, shape=shape),
        word.encode(y=alt.value(0)),
    ).properties(width=480, height=72 * len(nets))
    ticks = [{"net": name, "value": float(one)} for name in nets for one in arrays[f"{name}/rotated"]]
    dots = [{"net": name, "value": float(arrays[f"{name}/purity:units"].mean())} for name in nets]
    near = alt.X("value:Q").title("mean purity of a basis: natural (dot), rotated (ticks)").scale(zero=False)
    near = near.axis(labelExpr=PERCENT, grid=False, tickCount=5)
    rotated = alt.Chart(table(ticks)).mark_tick(thickness=1, size=18, opacity=0.4, color=INK).encode(x=near, y=down)
    natural = alt.Chart(table(dots)).mark_point(filled=True, size=90, opacity=1, color=COLOURS[0])
    below = alt.layer(rotated, natural.encode(x=near, y=down)).properties(width=480, height=34 * len(nets))
    return finished(above, below)
