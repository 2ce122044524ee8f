"""The table of every sample: what the page's script filters and sorts."""

from __future__ import annotations

import json
from dataclasses import dataclass

from markupsafe import Markup

from holdfast.foundation import units
from holdfast.records.schema import CLEAN
from holdfast.report import wording
from holdfast.report.read import Outcome, Run

DIGITS = 4
"""Significant digits of distances and margins: 10,000 samples make about half a megabyte."""


@dataclass(frozen=True)
class Browser:
    """The samples of a run: ``data`` for the script, and what can be chosen: (number, name) of stages, and labels."""

    run: Run
    data: Markup
    stages: tuple[tuple[int, str], ...]
    labels: tuple[int, ...]


def browser(run: Run) -> Browser:
    """Rows are (id, label, predicted, stage, radius, distance, margin).

    Stage and radius are places in their lists; the stage is -1 where nothing broke the sample, 0 where it was wrong when
    clean. A margin that was not measured is null, and so is what a sample that held does not have. ``levels``: whether
    distances are told in units of 1/255.
    """
    stages = list(dict.fromkeys([CLEAN, *(outcome.stage for outcome in run.outcomes if outcome.eps is not None)]))
    radii = sorted({outcome.eps for outcome in run.outcomes if outcome.eps is not None})
    data = {
        "classes": run.info.data.class_names,
        "stages": stages,
        "radii": [units.show(eps) for eps in radii],
        "levels": wording.in_levels(run.info.curve),
        "rows": [_row(outcome, stages, radii) for outcome in run.outcomes],
    }
    # In a script element nothing is escaped but this: a name may hold the end of the element.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
    labels = sorted({outcome.label for outcome in run.outcomes})
    return Browser(run, Markup(text), tuple(enumerate(stages))[1:], tuple(labels))


def _row(outcome: Outcome, stages: list[str], radii: list[float]) -> list[float | None]:
    margin = None if outcome.margin is None else _short(outcome.margin)
    if outcome.eps is None:
        return [outcome.id, outcome.label, None, -1, None, None, margin]
    return [
        outcome.id,
        outcome.label,
        outcome.predicted,
        stages.index(outcome.stage),
        radii.index(outcome.eps),
        _short(outcome.distance),
        margin,
    ]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
