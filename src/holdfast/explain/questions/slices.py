"""Slices x + a u + b v through images, u adversarial and v random: taken, and drawn as regions and as losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.engine import default_slots
from holdfast.ascent.inner import worst
from holdfast.attacks.pgd import PGD
from holdfast.explain.case import Batch, Case, Net
from holdfast.explain.drawing import Plane, finished, planes
from holdfast.explain.found import Found
from holdfast.explain.questions.plane_colours import (
    bar,
    coloured,
    contoured,
    doublings,
    inside_words,
    legend,
    regions,
    shaded,
)
from holdfast.foundation.errors import BadValue
from holdfast.losses import Loss, ce, margin
from holdfast.probes.linearity import Tangent, fault, tangent
from holdfast.probes.plane import look, random_directions, section, sized
from holdfast.report.charts import COLOURS, MUTED, SHAPES, cycle, table

ALONG, UP = "along u, adversarial, in eps", "along v, random, as long in L2"
LEAST_LOSS = 1e-4
"""Losses below are drawn there: their axis is logarithmic."""


def tangents(net: Net, loss: Loss, x: Tensor, y: Tensor) -> Tangent:
    """The tangents of the loss at any number of images."""
    slots = default_slots(x)
    parts = [tangent(net.model, loss, *each) for each in zip(x.split(slots), y.split(slots))]
    return Tangent(*(torch.cat(each) for each in zip(*parts)))


def losses(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of any number of images, (n,), without gradients."""
    return ce(net.logits(x), y, torch.full_like(y, -1))


def faults(case: Case) -> dict[str, str]:
    """The nets whose output is constant, or has no gradient or none that is finite, and why."""
    said = {}
    for net in case.nets:
        batch = case.batch(net)
        said[net.name] = fault(tangents(net, margin, batch.x, batch.y))
    return {name: why for name, why in said.items() if why}


def told(case: Case, broken: dict[str, str], *, control: bool = False) -> tuple[str, ...]:
    """The faults of the trained nets in words, which are breaches, or those of the control, which are not."""
    nets = [net for net in case.nets if net.name in broken and (net.role == "untrained") == control]
    return tuple(f"{net.name}: {broken[net.name]}" for net in nets)


def adversarial(case: Case, net: Net, batch: Batch, *, steps: int, loss: str = "margin") -> Tensor:
    """Where PGD ends inside the threat set, seen from each image and made eps long: (n, C, H, W).

    Raises:
        BadValue: the radius is 0.
    """
    if not case.threat.eps > 0:
        raise BadValue("eps is 0: no direction is adversarial", hint="give the radius with --eps")
    attack, slots = PGD(steps=steps, loss=loss), default_slots(batch.x)
    ends = [
        worst(attack, net.model, case.rows(Batch(*part), keys.number("adversarial")))
        for part in zip(*(each.split(slots) for each in batch))
    ]
    return sized(case.threat, case.threat.project(batch.x, torch.cat(ends)) - batch.x)


def at_random(case: Case, batch: Batch, place: int) -> Tensor:
    """A random direction for each image, the same for every net; ``place`` counts those of one image."""
    return random_directions(case.threat, case.rows(batch, keys.number("random"), place).key, batch.x)


def slices(
    case: Case,
    net: Net,
    batch: Batch,
    u: Tensor,
    v: Tensor,
    places: Sequence[int],
    axis: Sequence[float],
    *,
    clip: bool,
) -> dict[str, np.ndarray]:
    """Of the images at these places: ``classes``, ``loss`` and ``outside`` (S, B, A), and the set's ``rim`` (S, 181, 2)."""
    found: dict[str, list[np.ndarray]] = {"classes": [], "loss": [], "outside": [], "rim": []}
    for place in places:
        seen = look(net.logits, batch.x[place], u[place], v[place], axis, axis, clip=clip)
        flat = seen.logits.flatten(0, 1)
        label = batch.y[place].expand(len(flat))
        found["classes"].append(flat.argmax(1).view(len(axis), -1).int().cpu().numpy())
        found["loss"].append(ce(flat, label, torch.full_like(label, -1)).view(len(axis), -1).float().cpu().numpy())
        found["outside"].append(seen.outside.float().cpu().numpy())
        found["rim"].append(section(case.threat, u[place], v[place]).float().cpu().numpy())
    return {key: np.stack(each) for key, each in found.items()}


def spread(distances: Sequence[np.ndarray], num: int) -> list[int]:
    """Places of ``num`` images whose distances (n,) no net lacks (NaN), if there are such: from near ones, by the first
    net, to far ones."""
    if not distances:
        return []
    whole = ~np.isnan(np.stack(distances)).any(0)
    among = np.flatnonzero(whole if whole.any() else ~whole)
    ranked = among[np.argsort(distances[0][among], kind="stable")]
    return ranked[np.linspace(0, len(ranked) - 1, min(num, len(ranked)) + 2)[1:-1].round().astype(int)].tolist()


def ends(axis: np.ndarray) -> tuple[float, float]:
    """The ends of a row of pixels whose middles are the values of the axis."""
    half = (axis[1] - axis[0]) / 2
    return float(axis[0] - half), float(axis[-1] + half)


def draw_regions(found: Found) -> Any:
    """What each net says on the slices: a row for each image, a column for each net."""
    nets, shown, names = (found.words[key] for key in ("nets", "shown", "classes"))
    axis, seen = found.arrays["axis"], {name: found.arrays[f"{name}/classes"] for name in nets}
    colours = coloured(list(seen.values()), names)
    rows = []
    for place, title in enumerate(shown):
        row = []
        for name in nets:
            classes = seen[name][place]
            row.append(
                Plane(
                    f"{name}: {title}",
                    regions(classes, colours, found.arrays[f"{name}/outside"][place]),
                    *(ends(axis), ends(axis)),
                    outline=_rim(found, name, place),
                    words=inside_words(classes, names, axis, axis),
                )
            )
        rows.append(row)
    others = any(int(one) not in colours for each in seen.values() for one in np.unique(each))
    return finished(legend(colours, names, others=others), planes(rows, x=ALONG, y=UP))


def draw_losses(found: Found) -> Any:
    """The losses on the same slices, on one scale for all nets."""
    nets, axis = found.words["nets"], found.arrays["axis"]
    top = max(float(np.nanmax(found.arrays[f"{name}/loss"])) for name in nets)
    rows = [
        [
            Plane(
                f"{name}: {title}",
                shaded(found.arrays[f"{name}/loss"][place], top),
                *(ends(axis), ends(axis)),
                outline=_rim(found, name, place),
            )
            for name in nets
        ]
        for place, title in enumerate(found.words["shown"])
    ]
    return finished(bar(top, "loss (cross-entropy)"), planes(rows, x=ALONG, y=UP))


def draw_along(found: Found) -> Any:
    """The loss along u, NET/along (n, A) over the places of ``line``: medians, and the middle half of the images."""
    nets, at = found.words["nets"], found.arrays["line"]
    rows = []
    for name in nets:
        seen = np.nan_to_num(found.arrays[f"{name}/along"])
        for place, values in zip(at, np.quantile(seen, [0.25, 0.5, 0.75], axis=0).clip(LEAST_LOSS).T.tolist()):
            rows.append({"net": name, "at": float(place), **dict(zip(("low", "middle", "high"), values))})
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, labelLimit=300)
    colour = alt.Color("net:N").scale(domain=nets, range=cycle(COLOURS, len(nets))).legend(legend)
    shape = alt.Shape("net:N").scale(domain=nets, range=cycle(SHAPES, len(nets))).legend(legend)
    base = alt.Chart(table(rows)).encode(x=alt.X("at:Q").title(ALONG).axis(grid=False).scale(nice=False), color=colour)
    up = alt.Y("middle:Q").title("loss (cross-entropy)").scale(type="log").axis(format="~g", tickCount=6)
    rule = alt.Chart(table([{"at": 0.0}, {"at": 1.0}])).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x="at:Q")
    drawn = (
        base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2.2).encode(y=up),
        base.mark_point(filled=True, size=40, opacity=1)
        .encode(y=up, shape=shape)
        .transform_filter("datum.at % 0.5 == 0"),
        rule,
    )
    return finished(alt.layer(*drawn).properties(width=560, height=260))


def draw_reliefs(found: Found, nets: Sequence[str], key: str, axis: np.ndarray, x: str, y: str) -> Any:
    """The surfaces of loss (B, A) called NET/key side by side, with contour lines, on one scale."""
    surfaces = [found.arrays[f"{name}/{key}"] for name in nets]
    whole = np.concatenate([each[np.isfinite(each)] for each in surfaces])
    top = float(whole.max(initial=0.0))
    levels = doublings(float(whole.min(initial=top)), top)
    row = [Plane(name, contoured(each, top, levels), ends(axis), ends(axis)) for name, each in zip(nets, surfaces)]
    return finished(bar(top, "loss (cross-entropy)"), planes([row], x=x, y=y))


def _rim(found: Found, name: str, place: int) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in found.arrays[f"{name}/rim"][place]]
