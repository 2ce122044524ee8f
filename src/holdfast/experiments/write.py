"""An outcome on the disk: table.csv, table.md, figure.svg, figure.png, and experiment.json, which says what it is."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import numpy
import torch

from holdfast import __version__
from holdfast.data.source import Source
from holdfast.experiments.experiment import Experiment
from holdfast.experiments.lab import Lab
from holdfast.experiments.outcome import Cell, Estimate, Outcome, Tabular, head, shown
from holdfast.foundation import registry
from holdfast.foundation.stats import Interval
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import Frozen

CSV, MARKDOWN, SVG, PNG, INFO = "table.csv", "table.md", "figure.svg", "figure.png", "experiment.json"
WRITTEN = (CSV, MARKDOWN, SVG, PNG, INFO)


class Images(Frozen):
    """Which images: their ``name``, how many there are, and the fingerprint of all of them."""

    name: str
    n: int
    fingerprint: str


class ExperimentInfo(Frozen):
    """What an experiment was asked, what with, and what it said; the numbers stand in ``table.csv``."""

    schema_version: int = 1
    name: str
    created: str
    command: str
    configuration: dict[str, Any]
    seed: int
    train: Images
    test: Images
    versions: dict[str, str]
    caption: str
    reproduced: bool
    seen: str
    published: tuple[str, ...]


def write(experiment: Experiment, outcome: Outcome, lab: Lab) -> None:
    """Writes the outcome into the lab's folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    out = lab.out
    write_atomic(out / CSV, [comma_separated(outcome).encode()])
    write_atomic(out / MARKDOWN, [markdown(experiment, outcome).encode()])
    with storing(out):
        chart = outcome.chart.properties(background="white")
        chart.save(str(out / SVG), format="svg")
        chart.save(str(out / PNG), format="png", scale_factor=2)
    info = ExperimentInfo(
        name=registry.name_of(experiment),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=lab.command,
        configuration=dataclasses.asdict(experiment),
        seed=experiment.seed,
        train=_images(lab.train),
        test=_images(lab.test),
        versions={
            "holdfast": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        caption=outcome.caption,
        reproduced=outcome.verdict.reproduced,
        seen=outcome.verdict.seen,
        published=experiment.published,
    )
    write_atomic(out / INFO, [info.model_dump_json(indent=2).encode()])


def comma_separated(outcome: Tabular) -> str:
    """The table as CSV: shares from 0 to 1, each with its bounds and its n in columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    wide = [
        any(isinstance(row[place], (Interval, Estimate)) for row in outcome.rows)
        for place in range(len(outcome.columns))
    ]
    heads = []
    for place, (column, parts) in enumerate(zip(outcome.columns, wide)):
        name = column.name.replace(",", "")
        heads += (
            [name, f"{name}: low", f"{name}: high", f"{name}: n"] if parts else [head(column, outcome.rows[-1][place])]
        )
    writer.writerow(heads)
    for row in outcome.rows:
        writer.writerow([value for cell, parts in zip(row, wide) for value in _values(cell, wide=parts)])
    return file.getvalue()


def markdown(experiment: Experiment, outcome: Outcome) -> str:
    """The table with its caption, what the literature says, and what was seen."""
    lines = [f"# {registry.name_of(experiment)}", "", outcome.caption, ""]
    lines.append("| " + " | ".join(map(head, outcome.columns, outcome.rows[-1])) + " |")
    lines.append("|" + "---|" * len(outcome.columns))
    for row in outcome.rows:
        lines.append("| " + " | ".join(shown(column, cell) for column, cell in zip(outcome.columns, row)) + " |")
    lines += ["", "The literature:", "", *(f"- {line}" for line in experiment.published), ""]
    return "\n".join([*lines, sentence(outcome), ""])


def sentence(outcome: Outcome) -> str:
    """Whether the shape came out, and by which numbers."""
    word = "The shape was reproduced" if outcome.verdict.reproduced else "The shape was not reproduced"
    return f"{word}: {outcome.verdict.seen}."


def _values(cell: Cell, *, wide: bool) -> Iterator[object]:
    if isinstance(cell, (Interval, Estimate)):
        bounds = (bound if math.isfinite(bound) else "" for bound in (cell.low, cell.high))
        yield from (cell.value, *bounds, cell.n)
    else:
        yield from (cell, "", "", "") if wide else (cell,)


def _images(source: Source) -> Images:
    return Images(name=source.name, n=len(source), fingerprint=source.fingerprint())
