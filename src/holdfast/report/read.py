"""Reads a run folder into a `Run`.

The records are folded while they are read, into one `Outcome` per sample: ten thousand samples at ten radii make a few
hundred thousand lines, and a page needs none of them twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from holdfast.foundation.errors import BadFile
from holdfast.records.schema import SCHEMA_VERSION, Frozen, Record, RunInfo, Summary

_AGAIN = "run the audit again with the same command; it goes on where it stopped"
_TOLERANCE = 1e-12  # radii come from the same parser, so that equal ones differ by rounding at most

Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True)
class Outcome:
    """What became of one sample.

    ``eps`` is the smallest radius at which it was fooled (0: already on the clean image; None: never), by ``stage``,
    as ``predicted``, at ``distance``. ``margin`` is the smallest one seen inside the headline radius; it is negative
    exactly where the sample counts as broken there, and None where no finite one was recorded.
    """

    id: int
    label: int
    right: bool = True
    held: bool = True
    eps: float | None = None
    stage: str = ""
    predicted: int = -1
    distance: float = 0.0
    margin: float | None = None


@dataclass(frozen=True)
class Gallery:
    """A few samples: ids (g,), clean and adversarial images (g, C, H, W) in [0, 1]."""

    ids: np.ndarray
    clean: np.ndarray
    adversarial: np.ndarray


@dataclass(frozen=True)
class Run:
    """A finished run as it lies in its folder; outcomes in the order of the sample ids, gallery None where absent."""

    label: str
    info: RunInfo
    summary: Summary
    outcomes: tuple[Outcome, ...]
    gallery: Gallery | None


def read(folder: Path) -> Run:
    """The run in ``folder``.

    Raises:
        BadFile: a file is missing, damaged, of a newer schema, or does not agree with the others.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no run folder {folder}", hint="give the folder that holdfast audit wrote with --out")
    info = _model(folder / "run.json", RunInfo, hint="give a folder that holdfast audit wrote")
    summary = _model(folder / "summary.json", Summary, hint=f"the run is not finished: {_AGAIN}")
    outcomes = _fold(_verdicts(folder / "records.jsonl"), headline=summary.eps)
    _agree(folder, info, summary, outcomes)
    gallery = _gallery(folder / "gallery.safetensors", known={outcome.id for outcome in outcomes})
    return Run(summary.name, info, summary, outcomes, gallery)


def told_apart(runs: list[Run]) -> list[Run]:
    """The runs with labels that differ and can be drawn: a repeated name gets its number behind it."""
    seen: set[str] = set()
    apart = []
    for run in runs:
        # Control characters are no text; SVG, which is XML, cannot hold them even escaped.
        name = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in run.label) or "run"
        label, number = name, 2
        while label in seen:
            label, number = f"{name} ({number})", number + 1
        seen.add(label)
        apart.append(replace(run, label=label))
    return apart


def _model(path: Path, kind: type[Model], *, hint: str) -> Model:
    text = _text(path, hint=hint)
    try:
        version = json.loads(text).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError) as error:
        raise BadFile(f"{path} is damaged: it is not a JSON object ({error})", hint=_AGAIN) from None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BadFile(
            f"{path} has schema version {version}; this holdfast reads up to {SCHEMA_VERSION}",
            hint="update holdfast: pip install --upgrade holdfast",
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise BadFile(f"{path} is damaged: {_first(error)}", hint=_AGAIN) from None


def _text(path: Path, *, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadFile(f"{path} is missing", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint=_AGAIN) from None


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc']) or 'the whole'}: {found['msg']}"


def _verdicts(path: Path) -> Iterator[Record]:
    """The records of whole stages; those of single searches inside a stage are for resuming, not for counting."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = Record.model_validate_json(line)
                except ValidationError as error:
                    raise BadFile(f"{path}, line {number}, is damaged: {_first(error)}", hint=_AGAIN) from None
                if record.search is None:
                    yield record
    except FileNotFoundError:
        raise BadFile(f"{path} is missing", hint=_AGAIN) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint=_AGAIN) from None


def _fold(records: Iterator[Record], *, headline: float) -> tuple[Outcome, ...]:
    found: dict[int, Outcome] = {}
    for record in records:
        outcome = found.get(record.id, Outcome(record.id, record.label))
        inside = record.eps <= headline + _TOLERANCE
        if record.fooled and (outcome.eps is None or record.eps < outcome.eps):
            outcome = replace(
                outcome,
                right=outcome.right and record.stage != "clean",
                held=outcome.held and not inside,
                eps=record.eps,
                stage=record.stage,
                predicted=record.predicted,
                distance=record.distance,
            )
        # Balls are nested: a margin seen at a smaller radius was seen inside the headline one, too.
        if inside and math.isfinite(record.margin):
            # A tie has margin 0 and is fooled; the sign must say so.
            margin = min(record.margin, -1e-9) if record.fooled else record.margin
            outcome = replace(outcome, margin=margin if outcome.margin is None else min(outcome.margin, margin))
        found[record.id] = outcome
    return tuple(found[key] for key in sorted(found))


def _agree(folder: Path, info: RunInfo, summary: Summary, outcomes: tuple[Outcome, ...]) -> None:
    """A page whose table contradicts its headline is worse than no page."""
    if not outcomes:
        raise BadFile(f"{folder / 'records.jsonl'} holds no finished sample", hint=_AGAIN)
    if abs(info.eps - summary.eps) > _TOLERANCE:
        raise BadFile(f"{folder}: run.json is of eps {info.eps:g}, summary.json of eps {summary.eps:g}", hint=_AGAIN)
    for what, rate, count in (
        ("clean accuracy", summary.clean_accuracy, sum(outcome.right for outcome in outcomes)),
        ("robust accuracy", summary.robust_accuracy, sum(outcome.held for outcome in outcomes)),
    ):
        if (len(outcomes), count) != (rate.n, round(rate.value * rate.n)):
            raise BadFile(
                f"{folder}: by summary.json the {what} is {round(rate.value * rate.n)} of {rate.n} samples, "
                f"by records.jsonl {count} of {len(outcomes)}",
                hint=_AGAIN,
            )


def _gallery(path: Path, *, known: set[int]) -> Gallery | None:
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadFile(f"{path} is damaged: {error}", hint=f"delete it, or {_AGAIN}") from None
    missing = {"ids", "clean", "adversarial"} - set(tensors)
    if missing:
        raise BadFile(f"{path} holds no tensor {', '.join(sorted(missing))}", hint=f"delete it, or {_AGAIN}")
    ids, clean, adversarial = tensors["ids"], tensors["clean"], tensors["adversarial"]
    if ids.size == 0:
        return None
    if ids.ndim != 1 or clean.ndim != 4 or clean.shape != adversarial.shape or len(clean) != len(ids):
        raise BadFile(
            f"{path} holds ids {ids.shape}, clean {clean.shape} and adversarial {adversarial.shape}; "
            "(g,), (g, C, H, W) and (g, C, H, W) are needed",
            hint=f"delete it, or {_AGAIN}",
        )
    strange = sorted(set(ids.tolist()) - known)
    if strange:
        raise BadFile(
            f"{path} shows sample {strange[0]}, of which records.jsonl knows nothing", hint=f"delete it, or {_AGAIN}"
        )
    return Gallery(ids, clean, adversarial)
