"""`holdfast.audit_smoothing`: what is certified of a model under noise, and what an attack leaves of it, from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from holdfast.audit.certified.conclude import conclude_certified
from holdfast.audit.certified.question import Pursuit, Question
from holdfast.audit.certified.run import run_certified
from holdfast.audit.config import DEFENDED, check_numbers
from holdfast.audit.description import data_info, versions
from holdfast.audit.divided import Watcher
from holdfast.audit.preflight import look
from holdfast.audit.ranks import Alone, Ranks, by_first
from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.models.doctor import raise_errors
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.certified import (
    DOCUMENT,
    AttackInfo,
    Certified,
    CertifyInfo,
    CertifySummary,
    read_certified,
    read_certify_summary,
)


@dataclass(frozen=True)
class SmoothingAudit:
    """The outcome.

    Args:
        summary: the numbers, as ``certify.json`` has them.
        certificates: of each image, in the order of ``ids``.
        ids: the images, (n,) int64.
        folder: where the run is written; None if it was asked to leave nothing behind.
    """

    summary: CertifySummary
    certificates: tuple[Certified, ...]
    ids: np.ndarray
    folder: Path | None


def audit_smoothing(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    *,
    sigma: float,
    select: int = 100,
    estimate: int = 10_000,
    alpha: float = 0.001,
    radii: Sequence[float] = (),
    early_stop: bool = False,
    attack: bool = True,
    steps: int = 20,
    restarts: int = 1,
    draws: int = 20,
    predict: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = DEFENDED,
    watch: Watcher | None = None,
) -> SmoothingAudit:
    """Randomised smoothing between two bounds: its certified accuracy, and its accuracy under attack, on the same images.

    An image is certified in its class within an L2 radius, wrongly with a probability of ``alpha`` at most. The attack
    searches that ball, cut with [0, 1], by the gradient of noisy copies' mean probability; its points are judged by PREDICT
    at ``alpha``. What is proved and what was broken may not overlap: ``summary.contradictions`` holds every image that is
    provably of another class within its own certificate.

    Args:
        model, data: as `holdfast.audit`. The model is the smoothed classifier's base, trained on noise of ``sigma``.
        sigma: the noise's standard deviation, in pixel values in [0, 1].
        select, estimate, alpha: as `holdfast.defences.certificate.certify`.
        radii: L2, ascending; from 0 to just beyond the largest that so many draws can certify unless given.
        early_stop: decide which of the radii each image reaches with as few draws as it takes (`certify_at`).
        attack: False: certificates alone.
        steps: of a search; one on the model alone takes five times as many.
        restarts: runs of a search, each with other draws and from the best point so far.
        draws: noisy copies that a gradient is averaged over.
        predict: draws of the answer at a final point.
        seed: of every draw, and of ``limit``.
        out: a folder to write the run to, and to resume it from; nothing is left behind unless given.
        limit: a seeded subset of that many images; None: all of them.
        watch: called with a `Progress` as images are finished.

    Raises:
        HoldfastError: what was given cannot be evaluated as it stands; the hint says what to do.

    Sources: Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing" (ICML 2019); Salman et
    al., "Provably robust deep learning via adversarially trained smoothed classifiers" (NeurIPS 2019), section 2.2, for the
    attack. Departures: the noise is held while a search compares points, and each radius goes on from the last one's points.
    """
    check_numbers(limit=limit, slots=None, seed=seed)
    pursuit = Pursuit(steps, restarts, draws, predict) if attack else None
    question = Question(sigma, select, estimate, alpha, tuple(radii), early_stop, pursuit, seed)
    source = load_data(data, limit=limit, seed=seed)
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    info = describe_certified(loaded, source, question)
    if out is not None:
        return _read(
            evaluate_certified(loaded, source, question, info, Path(out), watch=watch), source, Path(out), True
        )
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        summary = evaluate_certified(loaded, source, question, info, Path(folder), watch=watch)
        return _read(summary, source, Path(folder), False)


def describe_certified(model: Model, source: Source, question: Question, *, command: str = "") -> CertifyInfo:
    """The run as it will be written; everything that can be refused is refused here.

    Raises:
        BadModel, BadData: the model or the images cannot be evaluated as they stand.
    """
    findings = look(model, source).findings
    raise_errors(findings)
    refused = {"randomised": "give a model that repeats its answers: only the smoothing may draw here"}
    if question.attack:
        refused["no gradient"] = "give a model whose logits can be differentiated, or certify alone with --no-attack"
        refused["probabilities"] = "take the softmax out of the model, or certify alone with --no-attack"
    for found in findings:
        if found.check in refused:
            raise BadModel(f"{found.check}: {found.saw}", hint=refused[found.check])
    pursuit = question.attack
    return CertifyInfo(
        name=model.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        sigma=question.sigma,
        select=question.select,
        estimate=question.estimate,
        alpha=question.alpha,
        decided=question.decided,
        largest=question.largest,
        radii=question.radii,
        attack=AttackInfo(**vars(pursuit)) if pursuit else None,
        seed=question.seed,
        model=model.info(),
        data=data_info(source),
        findings=findings,
        versions=versions(),
        command=command,
    )


def evaluate_certified(
    model: Model,
    source: Source,
    question: Question,
    info: CertifyInfo,
    folder: Path,
    *,
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
) -> CertifySummary:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. Of a finished run only the lines are read.

    Args:
        ranks: the processes that share the work, each of which calls this.

    Raises:
        PlanMismatch, StorageError, BadFile, BadModel, Incomplete: as `run_certified`.
    """
    ranks = ranks or Alone()
    seconds = run_certified(model, source, question, info, folder, ranks=ranks, watch=watch)

    def concluded() -> CertifySummary:
        if seconds is None and (folder / DOCUMENT).exists():
            known = read_certify_summary(folder)
            if (known.asked.attack, known.asked.radii) == (info.attack, info.radii):
                return known
        return conclude_certified(folder, info, seconds or 0.0)

    return by_first(ranks, concluded)


def _read(summary: CertifySummary, source: Source, folder: Path, keep: bool) -> SmoothingAudit:
    lines = {line.id: line for line in read_certified(folder)}
    ids = np.asarray(source.ids)
    return SmoothingAudit(summary, tuple(lines[key] for key in ids.tolist()), ids, folder if keep else None)
