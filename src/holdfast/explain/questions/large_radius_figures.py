"""The figures of the large radii: films, how often a judge agrees, and probabilities on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.experiments.charts import Panel, Point, lines
from holdfast.explain.case import NORMS
from holdfast.explain.compare import median, number, share
from holdfast.explain.drawing import Picture, film, finished
from holdfast.explain.found import Figure, Found
from holdfast.explain.questions.large_radius_said import flips
from holdfast.probes.clustered import clustered

CONTROL = "noise"
SERIES = ("true class", "class at the end", "all others")
LEAST = 5
"""Flipped images of which a share is drawn: that of fewer says too little to stand in a curve."""
ACROSS = 3
"""Panels in a row."""


def figures(found: Found) -> tuple[Figure, ...]:
    arrays, words = found.arrays, found.words
    drawn = [
        Figure(
            f"film_{norm}",
            f"Growing {NORMS[norm]} radii, the same for all nets; below, the class that the net sees and its probability.",
            finished(*(_film(found, norm, place) for place in range(len(arrays["shown"])))),
        )
        for norm in words["norms"]
    ]
    if words["judge"]:
        panels = [Panel(NORMS[norm], _confirmed(found, norm)) for norm in words["norms"]]
        chart = lines(panels, x="radius", y="share confirmed", series=[*words["nets"], CONTROL])
        caption = (
            f"How often {words['judge']} give flipped images their new class; noise: how often they give that class to "
            f"noise around the images of {words['nets'][0]}."
        )
        drawn.append(Figure("confirmed", caption, finished(chart)))
    norm = words["norms"][0]
    caption = (
        f"On the straight way to the point at {NORMS[norm]} {number(float(arrays[f'radii/{norm}'][-1]))}: mean "
        "probabilities with their intervals; dashed: the median place at which the class switches."
    )
    panels = [_way(found, net) for net in words["nets"]]
    rows = [
        _alike(lines(panels[start : start + ACROSS], x="share of the way", y="mean probability", dots=False))
        for start in range(0, len(panels), ACROSS)
    ]
    return (*drawn, Figure("interpolation", caption, finished(*rows)))


def _alike(row: Any) -> Any:
    """A row of panels, each as large as in a full row."""
    for panel in row.hconcat:
        panel.width, panel.height = 190, 190
    return row


def _film(found: Found, norm: str, place: int) -> Any:
    arrays, names, rows = found.arrays, found.words["classes"], []
    one = int(arrays["shown"][place])

    def picture(pixels: np.ndarray, label: int, probability: float) -> Picture:
        return Picture(pixels / 255, f"{names[label] if label < len(names) else label}\n{100 * probability:.0f} %")

    for net in found.words["nets"]:
        first = picture(arrays["images"][place], arrays[f"{net}/clean"][one], arrays[f"{net}/surest"][one])
        classes, sure = (arrays[f"{net}/{norm}/{key}"][one] for key in ("class", "probability"))
        rows.append((net, [first, *map(picture, arrays[f"{net}/{norm}/strip"][place], classes, sure)]))
    radii = [f"{NORMS[norm]} {number(radius)}" for radius in arrays[f"radii/{norm}"].tolist()]
    return film(rows, heads=[f"image: {names[arrays['y'][one]]}", *radii])


def _confirmed(found: Found, norm: str) -> list[Point]:
    points, level = [], found.words["confidence"]
    for net in found.words["nets"]:
        for place, radius in enumerate(found.arrays[f"radii/{norm}"].tolist()):
            flipped, confirmed, _, chance = flips(found, net, norm, place)
            if confirmed is not None and chance is not None and flipped.sum() >= LEAST:
                points.append(Point(net, radius, share(confirmed[flipped], confidence=level)))
                if net == found.words["nets"][0]:
                    points.append(Point(CONTROL, radius, share(chance[flipped], confidence=level)))
    return points


def _way(found: Found, net: str) -> Panel:
    along, level = found.arrays[f"{net}/along"], found.words["confidence"]
    ways = np.linspace(0, 1, along.shape[1]).tolist()
    points = [
        Point(name, way, clustered(along[:, place, series], confidence=level, least=0.0, most=1.0))
        for series, name in enumerate(SERIES)
        for place, way in enumerate(ways)
    ]
    switch = median(found.arrays[f"{net}/switch"], confidence=level)
    return Panel(net, points, [(switch.value, "switch")] if switch.n else [])
