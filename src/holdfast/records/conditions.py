"""What a run over corruptions writes: ``corruptions/`` in the run folder.

``run.json`` (`ConditionsInfo`) says what was asked, ``outcomes.jsonl`` (`Outcomes`, one line per condition and chunk of
images) is appended to as it goes, ``summary.json`` (`ConditionsSummary`) has the metrics, and ``samples.safetensors`` a few
images. A condition is a corruption at a severity; the clean images are the condition ``clean`` at severity 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from holdfast.foundation.errors import BadFile
from holdfast.records.document import read_document
from holdfast.records.lines import whole
from holdfast.records.part import OUTCOMES, RUN, SUMMARY, Layout, Part, finished, part
from holdfast.records.schema import CLEAN, SCHEMA_VERSION, DataInfo, Finding, Frozen, ModelInfo, Rate

FOLDER = "corruptions"


Standing = Literal["test", "validation", "held_out", "foreign"]
Frost = Literal["photographs", "procedural", "released files", ""]


class Overlap(Frozen):
    """What the model's own training says against its number.

    ``declared``: the image operations that it was trained with; None: it does not say. ``touched``: corruption -> the
    operations that are of its family. ``unknown``: declared operations that nobody knows the family of.
    """

    declared: tuple[str, ...] | None = None
    touched: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unknown: tuple[str, ...] = ()


class ConditionsInfo(Frozen):
    """What was asked for. ``chunk``: images per line of outcomes."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    corruptions: tuple[str, ...]
    standing: dict[str, Standing]
    """Corruption -> whether the benchmark counts it; ``foreign``: of released files, and none of ours."""
    severities: tuple[int, ...]
    variant: str
    origin: Literal["generated", "released files"]
    frost: Frost = ""
    jpeg: int | None = None
    adaptation: str = ""
    seed: int
    chunk: int
    model: ModelInfo
    data: DataInfo
    overlap: Overlap = Overlap()
    findings: tuple[Finding, ...] = ()
    versions: dict[str, str]
    command: str = ""
    request: dict[str, Any] = Field(default_factory=dict)


class Outcomes(Frozen):
    """A chunk of images under one condition: ``first`` is the place of its first image in the data's order.

    ``predicted``: the classes with the largest logits; ``confidence``: their probabilities; ``label``: the true classes.
    """

    corruption: str
    severity: int
    first: int
    label: tuple[int, ...]
    predicted: tuple[int, ...]
    confidence: tuple[float, ...]


class Cell(Frozen):
    """A condition: its ``error``, a share with its interval, and the calibration error of the confidences there."""

    corruption: str
    severity: int
    error: Rate
    calibration_error: float


class Mean(Frozen):
    """A mean over corruptions with the 95 % bootstrap interval over images; errors are shares, CE are ratios."""

    value: float
    low: float
    high: float


class Row(Frozen):
    """A corruption: its mean error over the severities, its CE where there is a baseline, its worst class."""

    corruption: str
    mean_error: float
    ce: float | None = None
    relative_ce: float | None = None
    worst_class: int
    worst_class_error: float


class ConditionsSummary(Frozen):
    """The numbers of a finished run over corruptions.

    ``mean_error`` is over the 15 of the benchmark that were run, ``untouched`` the same over those that the declared
    training leaves alone (None: nothing is declared, or nothing touched), ``held_out`` over the corruptions of our own.
    ``mce`` and ``relative_mce`` are ratios to the ``baseline``, None without one; the latter also where a corruption does
    not raise the baseline's error.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    n: int
    clean: Cell
    cells: tuple[Cell, ...]
    rows: tuple[Row, ...]
    counted: tuple[str, ...]
    mean_error: Mean | None
    untouched: Mean | None = None
    held_out: Mean | None = None
    baseline: str = ""
    mce: Mean | None = None
    mce_untouched: Mean | None = None
    relative_mce: float | None = None
    calibration_error: float
    forwards: int
    seconds: float
    warnings: tuple[Finding, ...] = ()


_LAYOUT = Layout(
    Outcomes,
    key=lambda line: (line.corruption, line.severity, line.first),
    identity=(
        "corruptions",
        "severities",
        "variant",
        "origin",
        "frost",
        "jpeg",
        "adaptation",
        "seed",
        "chunk",
        "model",
        "data",
    ),
)


def conditions_store(folder: Path, info: ConditionsInfo, rank: int = 0) -> Part[Outcomes]:
    """The corruptions of the run in ``folder``, to append to; ``done``: (corruption, severity, first). Raises as `part`."""
    return part(folder / FOLDER, info, _LAYOUT, rank)


class Seen(Frozen):
    """Everything that was recorded of the conditions, gathered: arrays over the images in the data's order.

    ``label`` (n,) int64, ``predicted`` (n,) int32 and ``confidence`` (n,) float32 of each condition.
    """

    model_config = Frozen.model_config | {"arbitrary_types_allowed": True}

    label: np.ndarray
    predicted: dict[tuple[str, int], np.ndarray]
    confidence: dict[tuple[str, int], np.ndarray]

    def right(self, condition: tuple[str, int]) -> np.ndarray:
        """Whether each image was classified correctly, (n,) bool."""
        return self.predicted[condition] == self.label


def gathered(folder: Path, n: int) -> Seen:
    """The outcomes of a finished run over ``n`` images.

    Raises:
        BadFile: lines are damaged, or images are missing.
    """
    label = np.full(n, -1, dtype=np.int64)
    predicted: dict[tuple[str, int], np.ndarray] = {}
    confidence: dict[tuple[str, int], np.ndarray] = {}
    for line in whole(folder / FOLDER / OUTCOMES, Outcomes):
        key, place = (line.corruption, line.severity), slice(line.first, line.first + len(line.label))
        label[place] = line.label
        predicted.setdefault(key, np.full(n, -1, dtype=np.int32))[place] = line.predicted
        confidence.setdefault(key, np.full(n, np.nan, dtype=np.float32))[place] = line.confidence
    short = [key for key, values in predicted.items() if (values < 0).any()]
    if short or (CLEAN, 0) not in predicted:
        raise BadFile(
            f"{folder / FOLDER / OUTCOMES} lacks images of {short[0] if short else CLEAN}",
            hint="run the same audit again: it goes on where it stopped",
        )
    return Seen(label=label, predicted=predicted, confidence=confidence)


def finished_conditions(folder: Path, info: ConditionsInfo) -> ConditionsSummary | None:
    """The numbers of a run, None if it is not finished. Raises PlanMismatch where the folder holds another one."""
    return finished(folder / FOLDER, info, _LAYOUT, ConditionsSummary)


def read_conditions(folder: Path) -> ConditionsInfo:
    """What was asked of the corruptions in a run folder. Raises BadFile."""
    return read_document(folder / FOLDER / RUN, ConditionsInfo)


def read_conditions_summary(folder: Path) -> ConditionsSummary:
    """The numbers of a finished run over corruptions. Raises BadFile."""
    return read_document(folder / FOLDER / SUMMARY, ConditionsSummary)
