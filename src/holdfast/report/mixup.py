"""What the theory of mixup inference says of a model, drawn as figure 2 of Pang, Xu and Zhu (ICLR 2020), and as rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from holdfast.foundation.stats import Interval
from holdfast.probes.mixup_theory import Curve, Mixing, MixupTheory
from holdfast.report.charts import COLOURS, INK, styled, table

MODES = {"pl": "MI-PL: partners of the predicted class", "ol": "MI-OL: partners of the others"}
SIDE = 230
"""Pixels: the width of a panel."""


@dataclass(frozen=True)
class Line:
    """A line of a panel: its name, its values for each lam, its colour's place, and whether it is dashed."""

    name: str
    values: Sequence[Interval | float]
    colour: int
    dashed: bool = False


def rows(theory: MixupTheory) -> Iterator[dict[str, Any]]:
    """Every figure of the theory: mode, lam, quantity, value, low, high. Thresholds and truths have no interval."""
    for mode in MODES:
        mixing: Mixing = getattr(theory, mode)
        curves: dict[str, Curve] = {
            "F_y clean": mixing.clean,
            "F_y adversarial": mixing.y,
            "F_yhat adversarial": mixing.yhat,
            "delta F_y clean": mixing.delta_clean,
            "delta F_y adversarial": mixing.delta_y,
            "delta F_yhat adversarial": mixing.delta_yhat,
            "improved": mixing.improved,
            "detection gap": mixing.detection_gap,
            "G gap y, published": mixing.published.y,
            "G gap yhat, published": mixing.published.yhat,
            "G gap y, paired": mixing.paired.y,
            "G gap yhat, paired": mixing.paired.yhat,
            "recovery margin": mixing.margin,
            "recovered": mixing.recovered,
        }
        plain = {
            "threshold y": mixing.threshold_y,
            "threshold yhat": mixing.threshold_yhat,
            "improves": [int(each) for each in mixing.improves],
        }
        for place, lam in enumerate(theory.lam):
            for name, curve in curves.items():
                found = curve[place]
                yield {
                    "mode": mode,
                    "lam": lam,
                    "quantity": name,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            for name, values in plain.items():
                yield {"mode": mode, "lam": lam, "quantity": name, "value": values[place], "low": "", "high": ""}


def as_csv(theory: MixupTheory) -> bytes:
    """The rows as a CSV file."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ["mode", "lam", "quantity", "value", "low", "high"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(theory))
    return file.getvalue().encode()


def figure(theory: MixupTheory) -> Any:
    """Three panels for each kind of partners, bands are the intervals over images: F_y, F_yhat, and the gaps of G.

    The gaps are shown as the paper estimates them and paired, and dashed what each must exceed.
    """
    modes = []
    for mode, name in MODES.items():
        mixing: Mixing = getattr(theory, mode)
        last = mode == "ol"  # both rows have the same lines
        clean = Line("clean", mixing.clean, 0)
        gaps = [
            Line("true class, published", mixing.published.y, 0),
            Line("predicted, published", mixing.published.yhat, 1),
            Line("true class, paired", mixing.paired.y, 5),
            Line("predicted, paired", mixing.paired.yhat, 4),
            Line("true class, threshold", mixing.threshold_y, 0, dashed=True),
            Line("predicted, threshold", mixing.threshold_yhat, 1, dashed=True),
        ]
        panels = [
            _panel(theory, "F of the true class", [clean, Line("adversarial", mixing.y, 1)], legend=last),
            _panel(theory, "F of the predicted class", [clean, Line("adversarial", mixing.yhat, 1)], legend=last),
            _panel(theory, "Gaps of G; dashed, what they must exceed", gaps, legend=last, share=False),
        ]
        title = alt.Title(name, anchor="start", fontSize=14, color=INK, offset=8)
        modes.append(alt.hconcat(*panels, spacing=26, title=title).resolve_scale(color="independent"))
    return styled(alt.vconcat(*modes, spacing=20).resolve_scale(color="independent"))


def _panel(theory: MixupTheory, title: str, lines: Sequence[Line], *, legend: bool, share: bool = True) -> Any:
    found = []
    for line in lines:
        for lam, value in zip(theory.lam, line.values):
            band = {"low": value.low, "high": value.high} if isinstance(value, Interval) else {}
            number = value.value if isinstance(value, Interval) else value
            found.append({"line": line.name, "lam": lam, "value": number, **band})
    names, solid = [line.name for line in lines], [line.name for line in lines if not line.dashed]
    key = alt.Legend(title=None, orient="bottom", columns=2, values=solid, symbolOpacity=1, symbolType="stroke")
    colours = [COLOURS[line.colour] for line in lines]
    colour = alt.Color("line:N").scale(domain=names, range=colours).legend(key if legend else None)
    x = alt.X("lam:Q").title("λ" if legend else None).axis(grid=False, tickCount=6, format="~g").scale(nice=False)
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=True, nice=True)
    y = alt.Y("value:Q", scale=scale).title(None).axis(tickCount=5)
    base = alt.Chart(table(found)).encode(x=x, color=colour)
    measured = base.transform_filter("isValid(datum.low)")
    band = measured.mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q")
    drawn = [measured.mark_line(strokeWidth=2).encode(y=y)]
    if len(solid) < len(names):
        dashed = base.transform_filter("!isValid(datum.low)")
        drawn.append(dashed.mark_line(strokeWidth=1.6, strokeDash=[5, 4]).encode(y=y))
    head = alt.Title(title, anchor="start", fontSize=12, fontWeight="normal", color=INK, offset=6)
    return alt.layer(band, *drawn).properties(width=SIDE, height=190, title=head)
