"""Reads a run folder into a `Run`.

The records are folded while they are read, into one `Outcome` per sample: ten thousand samples at ten radii make a few
hundred thousand lines, and a page needs none of them twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from holdfast.foundation import units
from holdfast.foundation.errors import BadFile
from holdfast.foundation.text import visible
from holdfast.records import store
from holdfast.records.schema import CLEAN, CurvePoint, Record, RunInfo, Summary

FAILED = "failed"
"""In the place of the stage that broke a sample: it could not be evaluated."""

_AGAIN = "run the audit again with the same command; it goes on where it stopped"
_TOLERANCE = 1e-12  # radii come from the same parser, so that equal ones differ by rounding at most


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample.

    ``eps`` is the smallest radius at which it was fooled (0: already on the clean image; None: never), by ``stage``,
    as ``predicted``, at ``distance``. ``margin`` is the smallest one seen inside the headline radius; it is negative
    exactly where the sample counts as broken there, and None where no finite one was recorded. A sample that could not be
    evaluated from a radius on counts as lost to the stage `FAILED`; its label is -1 if nobody could read it.
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
    info, summary = store.read_info(folder), store.read_summary(folder)
    # A record of one search inside a stage is for resuming, not for counting.
    final = (record for record in store.read_records(folder) if record.final)
    outcomes = _failing(_fold(final, headline=summary.eps, radii=sorted(info.curve)), summary)
    _agree(folder, info, summary, outcomes)
    gallery = _gallery(folder / store.GALLERY, info.data.shape, known={outcome.id for outcome in outcomes})
    return Run(summary.name, info, summary, outcomes, gallery)


def told_apart(names: Sequence[str]) -> list[str]:
    """Labels that differ and can be drawn: a repeated name gets its number behind it."""
    apart: list[str] = []
    for given in names:
        name = visible(given) or "run"
        label, number = name, 2
        while label in apart:
            label, number = f"{name} ({number})", number + 1
        apart.append(label)
    return apart


def _fold(records: Iterable[Record], *, headline: float, radii: Sequence[float]) -> tuple[Outcome, ...]:
    found: dict[int, Outcome] = {}
    for record in records:
        outcome = found.get(record.id, Outcome(record.id, record.label))
        eps = store.reached(record, radii) if record.fooled and record.stage != CLEAN else record.eps
        inside = eps <= headline + _TOLERANCE
        if record.fooled and (outcome.eps is None or (eps, record.distance) < (outcome.eps, outcome.distance or 0.0)):
            outcome = replace(
                outcome,
                right=outcome.right and record.stage != CLEAN,
                held=outcome.held and not inside,
                eps=eps,
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


def _failing(outcomes: tuple[Outcome, ...], summary: Summary) -> tuple[Outcome, ...]:
    """The outcomes with those of the samples that failed."""
    found = {outcome.id: outcome for outcome in outcomes}
    for failure in summary.failed:
        label = -1 if failure.label is None else failure.label
        outcome = found.get(failure.id, Outcome(failure.id, label, right=False))
        if outcome.eps is None or failure.eps < outcome.eps - _TOLERANCE:
            inside = failure.eps <= summary.eps + _TOLERANCE
            outcome = replace(
                outcome,
                held=outcome.held and not inside,
                eps=failure.eps,
                stage=FAILED,
                margin=None if inside else outcome.margin,
            )
        found[failure.id] = outcome
    return tuple(found[key] for key in sorted(found))


def _agree(folder: Path, info: RunInfo, summary: Summary, outcomes: tuple[Outcome, ...]) -> None:
    """A page whose table contradicts its headline is worse than no page."""
    if not outcomes:
        raise BadFile(f"{folder / store.RECORDS} holds no finished sample", hint=_AGAIN)
    if abs(info.eps - summary.eps) > _TOLERANCE:
        raise BadFile(f"{folder}: run.json is of eps {info.eps:g}, summary.json of eps {summary.eps:g}", hint=_AGAIN)
    claims = [("clean accuracy", summary.clean_accuracy, sum(outcome.right for outcome in outcomes))]
    for point in (CurvePoint(eps=summary.eps, robust_accuracy=summary.robust_accuracy), *summary.curve):
        held = sum(outcome.eps is None or outcome.eps > point.eps + _TOLERANCE for outcome in outcomes)
        claims.append((f"accuracy at eps {units.show(point.eps)}", point.robust_accuracy, held))
    for what, rate, count in claims:
        if (len(outcomes), count) != (rate.n, round(rate.value * rate.n)):
            raise BadFile(
                f"{folder}: by summary.json the {what} is {round(rate.value * rate.n)} of {rate.n} samples, "
                f"by records.jsonl {count} of {len(outcomes)}",
                hint=_AGAIN,
            )


def _gallery(path: Path, shape: tuple[int, int, int], *, known: set[int]) -> Gallery | None:
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
    images = (len(ids), *shape)
    if ids.ndim != 1 or clean.shape != images or adversarial.shape != images or 0 in shape:
        raise BadFile(
            f"{path} holds ids {ids.shape}, clean {clean.shape} and adversarial {adversarial.shape}; "
            f"(g,), and images of {shape} are needed",
            hint=f"delete it, or {_AGAIN}",
        )
    strange = sorted(set(ids.tolist()) - known)
    if strange:
        raise BadFile(
            f"{path} shows sample {strange[0]}, of which records.jsonl knows nothing", hint=f"delete it, or {_AGAIN}"
        )
    return Gallery(ids, clean, adversarial)
