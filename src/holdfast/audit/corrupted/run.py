"""Runs a model on corrupted images, condition by condition, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from holdfast.ascent import engine
from holdfast.ascent.meter import Classifier
from holdfast.audit.corrupted.overlap import overlap
from holdfast.audit.corrupted.question import Asked
from holdfast.audit.description import data_info, versions
from holdfast.audit.divided import Watcher
from holdfast.audit.preflight import logarithmic, look
from holdfast.audit.ranks import Ranks
from holdfast.audit.sweep import Chunk, Sweep, check_finite, sweeping
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.models.doctor import raise_errors
from holdfast.models.model import Model
from holdfast.records.conditions import ConditionsInfo, Outcomes, conditions_store
from holdfast.records.schema import CLEAN

PIXELS = 256 * 32 * 32
"""How many pixels of one channel a chunk has, at most."""


def describe_conditions(
    model: Model,
    source: Source,
    question: Asked,
    *,
    name: str,
    adaptation: str = "",
    command: str = "",
    request: dict[str, Any] | None = None,
) -> ConditionsInfo:
    """The run as it will be written; the doctor looks at the model first.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands.
    """
    findings = look(model, source).findings
    raise_errors(findings)
    if adaptation and any(each.check == "probabilities" for each in findings):
        raise BadModel(
            f"the model returns probabilities, and {adaptation} adapts logits",
            hint="take the softmax out of the model; it is not needed to classify",
        )
    images, released = data_info(source), question.released.fingerprint() if question.released else ""
    return ConditionsInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        corruptions=question.corruptions,
        standing=question.standing,
        severities=question.severities,
        variant=question.variant,
        origin="released files" if question.released else "generated",
        frost=question.frost,
        jpeg=question.jpeg,
        adaptation=adaptation,
        seed=question.seed,
        chunk=chunk_of(source),
        model=model.info(),
        data=images.model_copy(update={"fingerprint": images.fingerprint + released}),
        overlap=overlap(model.declared, question.corruptions),
        findings=findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def chunk_of(source: Source) -> int:
    """How many images of a source are corrupted and evaluated at once."""
    return int(min(256, max(16, PIXELS // (source.shape[1] * source.shape[2]))))


def run_conditions(
    model: Model,
    source: Source,
    info: ConditionsInfo,
    question: Asked,
    folder: Path,
    *,
    ranks: Ranks,
    adapt: Callable[[Model], Classifier] | None = None,
    watch: Watcher | None = None,
) -> float:
    """Evaluates everything that ``folder`` does not hold yet; returns the seconds that it took.

    Args:
        ranks: the processes that share the work. Each of them calls this.
        adapt: makes a classifier that adapts to the images it is shown; every condition begins with a fresh one, sees its
            images in their order, and is written when it is whole, because a half-adapted model cannot be resumed.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`.
        BadModel: the model fails on an image; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    conditions = [(CLEAN, 0), *((name, level) for name in info.corruptions for level in info.severities)]
    with sweeping(
        "corruptions",
        model,
        source,
        lambda rank: conditions_store(folder, info, rank),
        conditions,
        chunk=info.chunk,
        ranks=ranks,
        watch=watch,
    ) as sweep:
        return sweep.run(_adapting(sweep, model, question, adapt) if adapt else _lines(sweep, model, info, question))


Found = Iterator[tuple[str, list[Outcomes], int]]


def _lines(sweep: Sweep[Outcomes], model: Model, info: ConditionsInfo, question: Asked) -> Found:
    classifier = logarithmic(model.module, info.findings)
    for (name, level), chunk in sweep.by_chunk():
        yield _called(name, level), [_outcomes(classifier, model, question, name, level, chunk)], len(chunk.ids)


def _adapting(sweep: Sweep[Outcomes], model: Model, question: Asked, adapt: Callable[[Model], Classifier]) -> Found:
    for (name, level), missing in sweep.by_condition():
        classifier = adapt(model)
        sweep.expect()
        every = [_outcomes(classifier, model, question, name, level, sweep.chunk(first)) for first in sweep.firsts]
        lines = [line for line in every if line.first in missing]
        yield _called(name, level), lines, sum(len(line.label) for line in lines)


def _called(name: str, level: int) -> str:
    return f"{name} {level or ''}".strip()


def _outcomes(classifier: Classifier, model: Model, question: Asked, name: str, level: int, chunk: Chunk) -> Outcomes:
    images = chunk.clean if name == CLEAN else question.supply(name, level, chunk.ids, chunk.clean)
    logits = engine.predict(classifier, images.to(model.dtype) / 255)
    check_finite(logits, chunk.ids, f"{name}, severity {level}")
    confidence, predicted = logits.double().softmax(1).max(1)
    return Outcomes(
        corruption=name,
        severity=level,
        first=chunk.first,
        label=tuple(chunk.labels.tolist()),
        predicted=tuple(predicted.tolist()),
        confidence=tuple(round(value, 5) for value in confidence.tolist()),
    )
