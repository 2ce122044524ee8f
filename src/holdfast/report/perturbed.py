"""The part of a page about perturbation sequences: what is read for it, and what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from holdfast.records.part import SAMPLES, SUMMARY
from holdfast.records.sequences import (
    FOLDER,
    SequencesInfo,
    SequencesSummary,
    measured,
    read_sequences,
    read_sequences_summary,
)
from holdfast.report import charts, pictures
from holdfast.report.corrupted import Strip, read_samples, told
from holdfast.report.frame import figure


@dataclass(frozen=True)
class Perturbed:
    """A finished run over perturbations; ``samples``: ``ids`` (1,) and ``frames`` (1, perturbations, frames, C, H, W)."""

    label: str
    info: SequencesInfo
    summary: SequencesSummary
    samples: dict[str, np.ndarray] | None


def has_perturbations(folder: Path) -> bool:
    """Whether a finished run over perturbations lies in the folder."""
    return (folder / FOLDER / SUMMARY).exists()


def read_perturbed(folder: Path) -> Perturbed:
    """The run over perturbations in ``folder``. Raises BadFile where a file is missing or damaged."""
    info, summary = read_sequences(folder), read_sequences_summary(folder)
    measured(folder, info.data.n)
    return Perturbed(info.name, info, summary, read_samples(folder / FOLDER / SAMPLES))


def flip_chart(runs: Sequence[Perturbed], names: Sequence[str], *, width: int) -> alt.LayerChart:
    """Flip probability with its 95 % interval, a row a perturbation, a mark a model."""
    rows = [
        {
            "run": run.label,
            "perturbation": told(row.perturbation),
            **{part: getattr(row.flip_probability, part) for part in ("value", "low", "high")},
        }
        for run in runs
        for row in run.summary.rows
    ]
    labels = [run.label for run in runs]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=width - 80) if len(runs) > 1 else None
    colour = alt.Color("run:N").scale(domain=labels, range=charts.cycle(charts.COLOURS, len(labels))).legend(legend)
    y = (
        alt.Y("perturbation:N")
        .title(None)
        .scale(domain=[told(name) for name in names])
        .axis(ticks=False, domain=False, labelPadding=8)
    )
    x = alt.X("value:Q").title("flip probability").scale(domainMin=0).axis(labelExpr=charts.PERCENT, tickCount=6)
    base = alt.Chart(charts.table(rows)).encode(y=y, color=colour)
    if len(runs) > 1:
        base = base.encode(yOffset=alt.YOffset("run:N").scale(domain=labels))
    ranges = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=52, opacity=1).encode(x=x)
    step = 26 if len(runs) == 1 else 14 * len(runs) + 8
    return charts.styled(alt.layer(ranges, dots).properties(width=width - 150, height=step * len(names)))


def context(runs: list[Perturbed]) -> dict[str, Any]:
    """What the template of the section needs."""
    names = list(dict.fromkeys(name for run in runs for name in run.info.perturbations))
    spoken = "; ".join(
        f"{run.label}: "
        + ", ".join(f"{told(row.perturbation)} {100 * row.flip_probability.value:.1f} %" for row in run.summary.rows)
        for run in runs
    )
    return {
        "chart": figure(lambda width: flip_chart(runs, names, width=width), f"Flip probabilities. {spoken}."),
        "names": names,
        "rows": {run.label: {row.perturbation: row for row in run.summary.rows} for run in runs},
        "films": _films(runs[0]),
        "told": told,
    }


def _films(run: Perturbed) -> list[Strip]:
    if run.samples is None:
        return []
    return [
        Strip(name, tuple(pictures.data_uri(frame / 255) for frame in film))
        for name, film in zip(run.info.perturbations, run.samples["frames"][0])
    ]
