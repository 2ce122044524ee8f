"""The part of a page about common corruptions: what is read for it, and what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from holdfast.foundation.errors import BadFile
from holdfast.foundation.stats import bootstrap
from holdfast.records.conditions import (
    FOLDER,
    ConditionsInfo,
    ConditionsSummary,
    Seen,
    gathered,
    read_conditions,
    read_conditions_summary,
)
from holdfast.records.part import SAMPLES, SUMMARY
from holdfast.report import charts, pictures
from holdfast.report.frame import HALF, WIDE, figure

FAMILY_ORDER = ("test", "held_out", "validation", "foreign")
"""The groups of a page's tables, in their order."""

GROUP_NAMES = {
    "test": "The benchmark’s corruptions",
    "held_out": "Held-out corruptions, which nobody trains on",
    "validation": "Extra corruptions, for tuning: in no mean",
    "foreign": "Other released corruptions",
}


@dataclass(frozen=True)
class Corrupted:
    """A finished run over corruptions.

    ``samples``: ``ids`` (g,), ``clean`` (g,C,H,W), ``corrupted`` (g, corruptions, severities, C, H, W), uint8.
    """

    label: str
    info: ConditionsInfo
    summary: ConditionsSummary
    seen: Seen
    samples: dict[str, np.ndarray] | None

    @property
    def errors(self) -> dict[tuple[str, int], float]:
        """(corruption, severity) -> error."""
        return {(cell.corruption, cell.severity): cell.error.value for cell in self.summary.cells}

    def group(self, standing: str) -> list[str]:
        """The corruptions of that standing, in the run's order."""
        return [name for name in self.info.corruptions if self.info.standing[name] == standing]


@dataclass(frozen=True)
class Strip:
    """A row of pictures, as data URIs: an image at every severity, or the frames of a film."""

    corruption: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Paired:
    """Two models on the same corrupted images: the difference of their means, the second minus the first, in points."""

    first: str
    second: str
    n: int
    value: float
    low: float
    high: float


def has_corruptions(folder: Path) -> bool:
    """Whether a finished run over corruptions lies in the folder."""
    return (folder / FOLDER / SUMMARY).exists()


def read_corrupted(folder: Path) -> Corrupted:
    """The run over corruptions in ``folder``.

    Raises:
        BadFile: a file is missing or damaged, or the records do not agree with the summary.
    """
    info, summary = read_conditions(folder), read_conditions_summary(folder)
    seen = gathered(folder, info.data.n)
    for cell in (summary.clean, *summary.cells):
        key = (cell.corruption, cell.severity)
        if key not in seen.predicted or int((~seen.right(key)).sum()) != round(cell.error.value * cell.error.n):
            raise BadFile(
                f"{folder / FOLDER}: summary.json and outcomes.jsonl disagree about {cell.corruption} {cell.severity}",
                hint="delete summary.json and run the audit again: it concludes anew",
            )
    return Corrupted(info.name, info, summary, seen, read_samples(folder / FOLDER / SAMPLES))


def read_samples(path: Path) -> dict[str, np.ndarray] | None:
    """The few images that a part of a run keeps; None where there are none. Raises BadFile."""
    if not path.exists():
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadFile(f"{path} is damaged: {error}", hint="delete it; the page does without") from None


def told(name: str) -> str:
    """The name of a corruption in words."""
    return name.replace("_", " ").replace("jpeg", "JPEG")


def severity_curves(runs: Sequence[Corrupted], names: Sequence[str], *, width: int) -> alt.VConcatChart:
    """Error against severity, one small panel a corruption, one line a model, all on one scale."""
    columns = 5 if width > 400 else 2
    side = (width - 30) // columns - 34
    labels = [run.label for run in runs]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=width - 80) if len(runs) > 1 else None
    colour = alt.Color("run:N").scale(domain=labels, range=charts.cycle(charts.COLOURS, len(labels))).legend(legend)
    panels = []
    for place, name in enumerate(names):
        rows = [
            {"run": run.label, "severity": severity, "value": error}
            for run in runs
            for (corruption, severity), error in run.errors.items()
            if corruption == name
        ]
        rows += [
            {"run": run.label, "severity": 0, "value": run.summary.clean.error.value}
            for run in runs
            if name in run.info.standing
        ]
        levels = sorted({row["severity"] for row in rows})
        left, bottom = place % columns == 0, place >= len(names) - columns
        x = (
            alt.X("severity:Q")
            .title("severity" if bottom else None)
            .scale(domain=[0, max(levels)])
            .axis(grid=False, values=levels, format="d", labels=bottom)
        )
        y = (
            alt.Y("value:Q")
            .title(None)
            .scale(domain=[0, 1])
            .axis(labelExpr=charts.PERCENT, values=[0, 0.5, 1], labels=left)
        )
        line = (
            alt.Chart(charts.table(rows))
            .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=22))
            .encode(x=x, y=y, color=colour, order="severity:Q")
        )
        # A title would stand higher over an axis with labels than beside it.
        title = alt.Chart(charts.table([{}])).encode(x=alt.value(0), y=alt.value(-7))
        title = title.mark_text(text=told(name), align="left", baseline="bottom", fontSize=12, color=charts.INK)
        panels.append(alt.layer(line, title).properties(width=side, height=90))
    rows_of = [alt.hconcat(*panels[start : start + columns], spacing=14) for start in range(0, len(panels), columns)]
    return charts.styled(alt.vconcat(*rows_of, spacing=10))


def heat(run: Corrupted, names: Sequence[str], *, width: int) -> alt.LayerChart:
    """Error of one model: a row a corruption, a column a severity, darker where it is larger; the number in each."""
    rows = [
        {
            "corruption": told(name),
            "severity": severity,
            "value": run.errors[name, severity],
            "text": f"{100 * error:.0f}",
        }
        for name in names
        for severity in run.info.severities
        if (error := run.errors[name, severity]) is not None
    ]
    for row in rows:
        row["ink"], row["shade"] = "#ffffff" if row["value"] > 0.65 else "#1c1d1f", _shade(row["value"])
    order = [told(name) for name in names]
    y = (
        alt.Y("corruption:N")
        .title(None)
        .scale(domain=order)
        .axis(ticks=False, domain=False, labelPadding=8, labelLimit=150)
    )
    x = alt.X("severity:O").title("severity").axis(orient="top", labelAngle=0, ticks=False, domain=False)
    base = alt.Chart(charts.table(rows)).encode(x=x, y=y)
    cells = base.mark_rect(cornerRadius=2).encode(color=alt.Color("shade:N").scale(None))
    texts = base.mark_text(fontSize=12).encode(text="text:N", color=alt.Color("ink:N").scale(None))
    room = min(width - 160, 76 * len(run.info.severities))
    return charts.styled(alt.layer(cells, texts).properties(width=room, height=26 * len(names)))


def _shade(error: float) -> str:
    """From paper to dark red; drawn here because a scale of Vega's cannot stand beside the texts' own colours."""
    ends = (243, 239, 233), (122, 31, 31)
    return "#" + "".join(f"{round(low + error * (high - low)):02x}" for low, high in zip(*ends))


def strips(run: Corrupted) -> list[tuple[int, str, list[Strip]]]:
    """(image id, the clean image as a data URI, its strips) for the images of the gallery."""
    if run.samples is None:
        return []
    found = []
    for place, (key, clean) in enumerate(zip(run.samples["ids"].tolist(), run.samples["clean"])):
        rows = [
            Strip(name, tuple(pictures.data_uri(image / 255) for image in run.samples["corrupted"][place, row]))
            for row, name in enumerate(run.info.corruptions)
        ]
        found.append((key, pictures.data_uri(clean / 255), rows))
    return found


def paired(first: Corrupted, second: Corrupted) -> Paired | None:
    """The difference of the mean errors over the benchmark's corruptions; None where the images or conditions differ."""
    one, two = first.info, second.info
    same = (one.data.fingerprint, one.severities, one.variant, one.seed) == (
        two.data.fingerprint,
        two.severities,
        two.variant,
        two.seed,
    )
    names = first.group("test")
    if not same or names != second.group("test") or not names:
        return None
    keys = [(name, severity) for name in names for severity in one.severities]
    each = [np.mean([~run.seen.right(key) for key in keys], axis=0) for run in (first, second)]
    found = bootstrap(each[1] - each[0], seed=one.seed, repeats=1000)
    return Paired(first.label, second.label, len(each[0]), found.value, found.low, found.high)


def context(runs: list[Corrupted]) -> dict[str, Any]:
    """What the template of the section needs."""
    names = list(dict.fromkeys(name for standing in FAMILY_ORDER for run in runs for name in run.group(standing)))
    means = {
        run.label: ", ".join(f"{told(row.corruption)} {100 * row.mean_error:.0f} %" for row in run.summary.rows)
        for run in runs
    }
    spoken = "; ".join(f"{label}: {text}" for label, text in means.items())
    return {
        "curves": figure(lambda width: severity_curves(runs, names, width=width), f"Error against severity. {spoken}."),
        "heats": [
            (
                run,
                figure(
                    lambda width, run=run: heat(
                        run, [name for s in FAMILY_ORDER for name in run.group(s)], width=width
                    ),
                    f"Error by corruption and severity. Means: {means[run.label]}.",
                    wide=WIDE if len(runs) == 1 else HALF,
                ),
            )
            for run in runs
        ],
        "strips": [(run, strips(run)) for run in runs[:1]],
        "pairs": [found for run in runs[1:] if (found := paired(runs[0], run))],
        "groups": [
            (GROUP_NAMES[standing], [name for name in names if any(name in run.group(standing) for run in runs)])
            for standing in FAMILY_ORDER
        ],
        "rows": {run.label: {row.corruption: row for row in run.summary.rows} for run in runs},
        "told": told,
    }
