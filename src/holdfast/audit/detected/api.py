"""`holdfast.audit_detectors`: detectors of adversarial examples from Python, each beside the model without it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from holdfast.attacks.apgd import APGD
from holdfast.audit.config import DEFENDED, check_numbers
from holdfast.audit.defended.views import plain, pool_info, settings
from holdfast.audit.description import data_info, versions
from holdfast.audit.detected.conclude import Told, concluded, told
from holdfast.audit.detected.images import divided
from holdfast.audit.detected.options import EXTRA, built, suited
from holdfast.audit.detected.run import Estimate, Subject, points_file, run_detected
from holdfast.audit.divided import Watcher
from holdfast.audit.preflight import look
from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.detectors.detector import Detector
from holdfast.foundation import registry
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models.doctor import raise_errors
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.detected import (
    FOLDER,
    SUMMARY,
    DetectedInfo,
    DetectedSummary,
    DetectorInfo,
    read_detected,
    same_detected,
    scored,
)
from holdfast.records.files import write_atomic
from holdfast.records.part import RUN
from holdfast.records.points import read_points
from holdfast.threats.threat import Threat


@dataclass(frozen=True)
class DetectorAudit:
    """The outcome of an evaluation of detectors.

    Args:
        summary: the numbers, as ``detect.json`` has them.
        told: detector -> the scores and answers that they come from.
        folder: where the run is written; None if it was asked to leave nothing behind.
    """

    summary: DetectedSummary
    told: dict[str, Told]
    folder: Path | None


def audit_detectors(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    detectors: Mapping[str, Detector] | None = None,
    *,
    train: Source | tuple[Any, Any] | str | Path | Any,
    threat: Threat,
    held: Source | tuple[Any, Any] | str | Path | Any | None = None,
    per_class: int | None = None,
    false_alarms: float = 0.05,
    steps: int = 20,
    restarts: int = 1,
    evaluations: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = DEFENDED,
    watch: Watcher | None = None,
) -> DetectorAudit:
    """Detectors of adversarial examples, measured honestly: against an attack that ignores them and one that knows them.

    The oblivious attack climbs the margin and the cross-entropy of the classifier alone by APGD; of its searches the point
    counts that the classifier is surest at, the same for every detector. The adaptive attack starts there and climbs
    classifier and detector at once (`holdfast.detectors.evasion.evade`). Random noise of the same radius is the control.

    Args:
        model, data: as `holdfast.audit`.
        detectors: by the labels that the tables give them; all that suit the model unless given. With
            `holdfast.detectors.extra_class` among them the net's last output is no class for any of them; names of layers
            then begin with "net.".
        train: images that the model was trained on: what detectors learn from, ``per_class`` of each class; 2,000 in all
            unless given.
        threat: the set: `Linf`, `L2` or `L1`.
        held: clean images to set thresholds on; those of ``data`` that ``limit`` leaves unless given.
        false_alarms: the share of clean images that each threshold may flag, in (0, 1).
        steps, restarts: of each search.
        evaluations: fresh ones of each image by a detector that draws.
        seed: of every draw of attacks, noise and images. Detectors have their own.
        out: a folder to write the run to, and to resume it from; nothing is left behind unless given.
        limit: a seeded subset of that many images; None: all of them, with ``held``.
        watch: called with a `Progress` as chunks are finished.

    Raises:
        HoldfastError: what was given cannot be evaluated as it stands; the hint says what to do.

    Sources: Carlini and Wagner, "Adversarial examples are not easily detected" (AISec 2017); Tramer, "Detecting adversarial
    examples is (nearly) as hard as classifying them" (ICML 2022).
    """
    check_numbers(limit=limit, slots=None, seed=seed)
    whole = load_data(data)
    source = load_data(whole, limit=limit, seed=seed)
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    chosen = built(suited(loaded.classes, len(source.class_names)), {}) if detectors is None else dict(detectors)
    apart = None if held is None else load_data(held)
    images = divided(
        whole, source, load_data(train), false_alarms=false_alarms, per_class=per_class, seed=seed, held=apart
    )
    subject = Subject(loaded, images, chosen, threat)
    info = describe_detected(
        subject, false_alarms=false_alarms, steps=steps, restarts=restarts, evaluations=evaluations, seed=seed
    )
    if out is not None:
        return evaluate_detected(subject, info, Path(out), watch=watch)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        found = evaluate_detected(subject, info, Path(folder), watch=watch)
        return DetectorAudit(found.summary, found.told, None)


def describe_detected(
    subject: Subject,
    *,
    false_alarms: float,
    steps: int,
    restarts: int,
    evaluations: int,
    seed: int,
    command: str = "",
    request: dict[str, Any] | None = None,
) -> DetectedInfo:
    """The run as it will be written; what can be refused before detectors are fitted is refused here.

    Raises:
        BadModel, BadData: the model or the images cannot be evaluated as they stand.
        BadValue: the effort, no detector, or a set whose points are no images or which APGD cannot search.
    """
    model, images = subject.model, subject.images
    for name, number in (("steps", steps), ("restarts", restarts), ("evaluations", evaluations)):
        if number < 1:
            raise BadValue(f"{name} is {number}; it must be at least 1", hint=f"leave {name} out for the default")
    if not subject.detectors:
        raise BadValue("no detector is given", hint="leave detectors out for all that suit the model")
    APGD().check(subject.threat)
    if not isinstance(model.module, nn.Module):
        raise BadModel("the model is no module, and detectors keep a copy of one", hint="wrap it in a torch.nn.Module")
    looked = look(model, images.tested)
    raise_errors(looked.findings)
    for check, remedy in (
        ("randomised", "give a model that repeats its answers: only a detector may draw here"),
        ("no gradient", "give a model whose logits can be differentiated in the image"),
    ):
        for finding in looked.findings:
            if finding.check == check:
                raise BadModel(f"{check}: {finding.saw}, and detectors are attacked by gradients", hint=remedy)
    return DetectedInfo(
        name=model.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        detectors={label: _info(detector) for label, detector in subject.detectors.items()},
        fitted=pool_info(images.fitted),
        held=data_info(images.held),
        false_alarms=false_alarms,
        threat=subject.threat.name,
        eps=subject.threat.eps,
        steps=steps,
        restarts=restarts,
        evaluations=evaluations,
        extra=any(registry.name_of(detector) == EXTRA for detector in subject.detectors.values()),
        seed=seed,
        chunk=32 if model.device.type == "cpu" else 256,
        model=model.info(),
        data=data_info(images.tested),
        findings=looked.findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def _info(detector: Detector) -> DetectorInfo:
    kept = {label: plain(value) for label, value in settings(detector)}
    return DetectorInfo(detector=registry.name_of(detector), settings=kept, flat=detector.flat)


def evaluate_detected(
    subject: Subject,
    info: DetectedInfo,
    folder: Path,
    *,
    tell: Callable[[Estimate], None] | None = None,
    watch: Watcher | None = None,
) -> DetectorAudit:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Raises:
        PlanMismatch, StorageError, BadFile, BadModel, BadData: as `run_detected`.
    """
    if (folder / FOLDER / RUN).exists():  # before detectors are fitted
        same_detected(folder, info)
        if (folder / SUMMARY).exists():
            return DetectorAudit(read_detected(folder), told(list(scored(folder))), folder)
    lines, ready = run_detected(subject, info, folder, tell=tell, watch=watch)
    firsts = sorted({line.first for line in lines})
    counts = np.sum([read_points(points_file(folder, first))["evaluations"].numpy() for first in firsts], axis=0)
    costs = {label: each.cost for label, each in ready.items()}
    summary = concluded(info, lines, spent=(int(counts[0]), int(counts[1])), costs=costs)
    write_atomic(folder / SUMMARY, [summary.model_dump_json(indent=2).encode()])
    return DetectorAudit(summary, told(lines), folder)
