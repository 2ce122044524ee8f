"""Runs a model along the frames of perturbed images, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch

from holdfast.ascent import engine
from holdfast.ascent.meter import Classifier
from holdfast.audit.description import data_info, versions
from holdfast.audit.divided import Watcher
from holdfast.audit.perturbed.conclude import conclude_sequences
from holdfast.audit.perturbed.flips import flips, top5_distances
from holdfast.audit.perturbed.question import Asked, Divisor
from holdfast.audit.preflight import logarithmic, look
from holdfast.audit.ranks import Alone, Ranks, by_first
from holdfast.audit.sweep import Chunk, check_finite, sweeping
from holdfast.data.source import Source
from holdfast.models.doctor import raise_errors
from holdfast.models.model import Model
from holdfast.records.sequences import (
    Sequences,
    SequencesInfo,
    SequencesSummary,
    finished_sequences,
    sequences_store,
)

_PIXELS = 64 * 31 * 32 * 32
"""How many pixels of one channel the frames of a chunk have, at most."""


def describe_sequences(
    model: Model,
    source: Source,
    question: Asked,
    *,
    name: str,
    command: str = "",
    request: dict[str, Any] | None = None,
) -> SequencesInfo:
    """The run as it will be written; the doctor looks at the model first.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands.
    """
    findings = look(model, source).findings
    raise_errors(findings)
    standing: dict[str, Literal["test", "extra"]] = {key: each.standing for key, each in question.perturbations.items()}
    side = source.shape[1] * source.shape[2]
    return SequencesInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        perturbations=tuple(question.perturbations),
        standing=standing,
        difficulty=question.difficulty,
        variant=question.variant,
        seed=question.seed,
        chunk=int(min(64, max(1, _PIXELS // (31 * side)))),
        model=model.info(),
        data=data_info(source),
        findings=findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def evaluate_sequences(
    model: Model,
    source: Source,
    info: SequencesInfo,
    question: Asked,
    folder: Path,
    divisor: Divisor,
    *,
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
) -> SequencesSummary:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Args:
        divisor: what flip probabilities are divided by, see `divided_by`.
        ranks: the processes that share the work, each of which calls this.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`.
        BadModel: the model fails on a frame; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    ranks = ranks or Alone()
    known = by_first(ranks, lambda: finished_sequences(folder, info))
    if known:
        if known.baseline == divisor.name:
            return known
        seconds = known.seconds
    else:
        seconds = _run(model, source, info, question, folder, watch, ranks)
    return by_first(ranks, lambda: conclude_sequences(folder, info, question, source, divisor, seconds))


def _run(
    model: Model,
    source: Source,
    info: SequencesInfo,
    question: Asked,
    folder: Path,
    watch: Watcher | None,
    ranks: Ranks,
) -> float:
    conditions = [(name,) for name in info.perturbations]
    with sweeping(
        "perturbations",
        model,
        source,
        lambda rank: sequences_store(folder, info, rank),
        conditions,
        chunk=info.chunk,
        ranks=ranks,
        watch=watch,
    ) as sweep:
        classifier = logarithmic(model.module, info.findings)
        return sweep.run(
            (name, [_line(classifier, model, question, name, chunk)], len(chunk.ids))
            for (name,), chunk in sweep.by_chunk()
        )


def _line(classifier: Classifier, model: Model, question: Asked, name: str, chunk: Chunk) -> Sequences:
    frames = question.frames(name, chunk.ids, chunk.clean)
    logits = torch.cat(
        [engine.predict(classifier, some.to(model.dtype) / 255) for some in frames.flatten(0, 1).split(256)]
    )
    check_finite(logits.unflatten(0, frames.shape[:2]), chunk.ids, name)
    shape = frames.shape[:2]
    ranked = logits.topk(min(5, logits.shape[1]), 1).indices.view(*shape, -1).cpu().numpy()
    rule = {"noise": question.perturbations[name].noise, "difficulty": question.difficulty}
    return Sequences(
        perturbation=name,
        first=chunk.first,
        frames=int(shape[1]),
        flips=tuple(flips(ranked[..., 0], **rule).tolist()),
        distances=tuple(top5_distances(ranked, **rule).tolist()) if ranked.shape[2] == 5 else (),
    )
