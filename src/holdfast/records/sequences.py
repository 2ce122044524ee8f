"""What a run over perturbation sequences writes: ``perturbations/`` in the run folder.

``run.json`` (`SequencesInfo`) says what was asked, ``outcomes.jsonl`` (`Sequences`, one line per perturbation and chunk of
images) is appended to as it goes, ``summary.json`` (`SequencesSummary`) has the metrics, and ``samples.safetensors`` the
frames of one image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from holdfast.foundation.errors import BadFile
from holdfast.records.conditions import Mean
from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES, RUN, SUMMARY, Layout, Part, finished, part
from holdfast.records.schema import SCHEMA_VERSION, DataInfo, Finding, Frozen, ModelInfo

FOLDER = "perturbations"


class SequencesInfo(Frozen):
    """What was asked for. ``chunk``: images per line of outcomes."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    perturbations: tuple[str, ...]
    standing: dict[str, Literal["test", "extra"]]
    """Perturbation -> whether the benchmark counts it."""
    difficulty: int
    variant: str
    seed: int
    chunk: int
    model: ModelInfo
    data: DataInfo
    findings: tuple[Finding, ...] = ()
    versions: dict[str, str]
    command: str = ""
    request: dict[str, Any] = Field(default_factory=dict)


class Sequences(Frozen):
    """The sequences of a chunk of images; ``first`` is the place of its first image in the data's order.

    ``frames`` in each sequence; ``flips``: the share of its pairs of frames with two predictions; ``distances``: the mean
    distance of their five likeliest classes, empty where there are fewer classes.
    """

    perturbation: str
    first: int
    frames: int
    flips: tuple[float, ...]
    distances: tuple[float, ...] = ()


class SequencesRow(Frozen):
    """A perturbation: its flip probability, that over the baseline's, and the mean top-5 distance (T5D)."""

    perturbation: str
    frames: int
    flip_probability: Mean
    flip_rate: float | None = None
    top5_distance: Mean | None = None


class SequencesSummary(Frozen):
    """The numbers of a finished run over perturbation sequences.

    ``mean_flip_probability`` and ``mean_top5_distance`` are over those of the benchmark's 10 that were run
    (``counted``), not normalised; ``mfr`` is the mean of ratios to the ``baseline``, None without one.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    n: int
    rows: tuple[SequencesRow, ...]
    counted: tuple[str, ...]
    mean_flip_probability: Mean | None
    mean_top5_distance: Mean | None
    baseline: str = ""
    mfr: Mean | None = None
    forwards: int
    seconds: float
    warnings: tuple[Finding, ...] = ()


_LAYOUT = Layout(
    Sequences,
    key=lambda line: (line.perturbation, line.first),
    identity=("perturbations", "difficulty", "variant", "seed", "chunk", "model", "data"),
)


def sequences_store(folder: Path, info: SequencesInfo, rank: int = 0) -> Part[Sequences]:
    """The perturbations of the run in ``folder``, to append to; ``done``: (perturbation, first). Raises as `part`."""
    return part(folder / FOLDER, info, _LAYOUT, rank)


def measured(folder: Path, n: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
    """Perturbation -> flips (n,), -> distances (n,) where they were taken, and -> frames, of a finished run.

    Raises:
        BadFile: lines are damaged, or images are missing.
    """
    flips: dict[str, np.ndarray] = {}
    distances: dict[str, np.ndarray] = {}
    frames: dict[str, int] = {}
    for line in whole(folder / FOLDER / OUTCOMES, Sequences):
        place = slice(line.first, line.first + len(line.flips))
        flips.setdefault(line.perturbation, np.full(n, np.nan))[place] = line.flips
        if line.distances:
            distances.setdefault(line.perturbation, np.full(n, np.nan))[place] = line.distances
        frames[line.perturbation] = line.frames
    short = [name for name, values in flips.items() if np.isnan(values).any()]
    if short or not flips:
        raise BadFile(
            f"{folder / FOLDER / OUTCOMES} lacks images{f' of {short[0]}' if short else ''}",
            hint="run the same audit again: it goes on where it stopped",
        )
    return flips, distances, frames


def finished_sequences(folder: Path, info: SequencesInfo) -> SequencesSummary | None:
    """The numbers of a run, None if it is not finished. Raises PlanMismatch where the folder holds another one."""
    return finished(folder / FOLDER, info, _LAYOUT, SequencesSummary)


def read_sequences(folder: Path) -> SequencesInfo:
    """What was asked of the perturbations in a run folder. Raises BadFile."""
    return read_document(folder / FOLDER / RUN, SequencesInfo)


def read_sequences_summary(folder: Path) -> SequencesSummary:
    """The numbers of a finished run over perturbations. Raises BadFile."""
    return read_document(folder / FOLDER / SUMMARY, SequencesSummary)
