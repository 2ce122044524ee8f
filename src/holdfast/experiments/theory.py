"""What a theory consists of, and how it is written: a table and a figure for each part, theory.md, and theory.json."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch

from holdfast import __version__
from holdfast.audit.config import option
from holdfast.experiments.configure import validated
from holdfast.experiments.outcome import Outcome, head, shown
from holdfast.experiments.write import comma_separated
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import Frozen

MARKDOWN, INFO = "theory.md", "theory.json"

Progress = Callable[[str, int, int], None]
"""Called with the part that is going on, how many are finished, and how many there are."""

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Part:
    """One question: its ``name``, what is ``claimed``, the ``outcome``, and ``breaches`` of the mathematics, in sentences.

    A verdict that does not reproduce is a finding; a breach is an error, here or in the theory, and there should be none.
    """

    name: str
    claimed: str
    outcome: Outcome
    breaches: tuple[str, ...] = ()


class Said(Frozen):
    """What a part claimed, whether it held, what was seen, and what contradicts the mathematics."""

    claimed: str
    holds: bool
    seen: str
    breaches: tuple[str, ...]


class TheoryInfo(Frozen):
    """What was asked, with what, and what came out; the numbers stand in the tables."""

    schema_version: int = 1
    name: str
    created: str
    command: str
    configuration: dict[str, Any]
    data: dict[str, str]
    versions: dict[str, str]
    parts: dict[str, Said]


def configured(kind: type[Kind], name: str, pairs: Sequence[str]) -> Kind:
    """The settings ``kind`` of the theory of that name, with the changes of ``key=value`` pairs.

    Raises:
        UnknownName: a setting that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind, or outside its range.
    """
    return validated(kind, dict(map(option, pairs)), name)


def write(
    name: str,
    configuration: Mapping[str, Any],
    parts: Sequence[Part],
    out: Path,
    *,
    command: str,
    data: Mapping[str, str],
) -> None:
    """Writes the parts of the theory of that name into a folder. ``data``: fingerprints by the names of the data.

    Raises:
        StorageError: the folder cannot be written.
    """
    for part in parts:
        write_atomic(out / f"{part.name}.csv", [comma_separated(part.outcome).encode()])
        with storing(out):
            chart = part.outcome.chart.properties(background="white")
            chart.save(str(out / f"{part.name}.svg"), format="svg")
            chart.save(str(out / f"{part.name}.png"), format="png", scale_factor=2)
    write_atomic(out / MARKDOWN, [markdown(name, parts).encode()])
    info = TheoryInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        configuration=dict(configuration),
        data=dict(data),
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


def markdown(name: str, parts: Sequence[Part]) -> str:
    """Every part with its table, caption and sentence; breaches first."""
    lines = [f"# {name}", ""]
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
