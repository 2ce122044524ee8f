"""The parts on the disk: a table and a figure for each, all tables in theory.md, and theory.json, which says what it is."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import torch

from holdfast import __version__
from holdfast.experiments.odds.settings import Odds, Part
from holdfast.experiments.outcome import head, shown
from holdfast.experiments.write import comma_separated
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import Frozen

MARKDOWN, INFO = "theory.md", "theory.json"


class Said(Frozen):
    """What a part claimed, whether it held, what was seen, and what contradicts the mathematics."""

    claimed: str
    holds: bool
    seen: str
    breaches: tuple[str, ...]


class TheoryInfo(Frozen):
    """What was asked, with what, and what came out; the numbers stand in the tables."""

    schema_version: int = 1
    name: str = "odds"
    created: str
    command: str
    configuration: dict[str, Any]
    data: dict[str, str]
    versions: dict[str, str]
    parts: dict[str, Said]


def write(asked: Odds, parts: Sequence[Part], out: Path, *, command: str, data: dict[str, str]) -> None:
    """Writes the parts into a folder. ``data``: fingerprints by the names of the images.

    Raises:
        StorageError: the folder cannot be written.
    """
    for part in parts:
        write_atomic(out / f"{part.name}.csv", [comma_separated(part.outcome).encode()])
        with storing(out):
            chart = part.outcome.chart.properties(background="white")
            chart.save(str(out / f"{part.name}.svg"), format="svg")
            chart.save(str(out / f"{part.name}.png"), format="png", scale_factor=2)
    write_atomic(out / MARKDOWN, [markdown(parts).encode()])
    info = TheoryInfo(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        configuration=dataclasses.asdict(asked) | {"eta": asked.population.eta},
        data=data,
        versions={
            "holdfast": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        parts={
            part.name: Said(
                claimed=part.claimed,
                holds=part.outcome.verdict.reproduced,
                seen=part.outcome.verdict.seen,
                breaches=part.breaches,
            )
            for part in parts
        },
    )
    write_atomic(out / INFO, [info.model_dump_json(indent=2).encode()])


def markdown(parts: Sequence[Part]) -> str:
    """Every part with its table, caption and sentence; breaches first."""
    lines = ["# odds", ""]
    lines += [f"**CONTRADICTION** {part.name}: {breach}." for part in parts for breach in part.breaches]
    for part in parts:
        outcome = part.outcome
        lines += ["", f"## {part.name}", "", outcome.caption, ""]
        lines.append("| " + " | ".join(map(head, outcome.columns, outcome.rows[-1])) + " |")
        lines.append("|" + "---|" * len(outcome.columns))
        for row in outcome.rows:
            lines.append("| " + " | ".join(shown(column, cell) for column, cell in zip(outcome.columns, row)) + " |")
        lines += ["", sentence(part)]
    return "\n".join([*lines, ""])


def sentence(part: Part) -> str:
    """What was claimed, whether it held, and by which numbers."""
    verdict = part.outcome.verdict
    return f"{part.claimed}. This {'holds' if verdict.reproduced else 'does not hold'}: {verdict.seen}."
