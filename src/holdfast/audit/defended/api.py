"""`holdfast.audit_defence`: a model behind a defence from Python, beside the model without it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.attacks.apgd import APGD
from holdfast.audit.config import DEFENDED, check_numbers
from holdfast.audit.defended.bench import Subject
from holdfast.audit.defended.conclude import conclude_defended
from holdfast.audit.defended.effort import Effort
from holdfast.audit.defended.outcome import adaptive_stage, gathered
from holdfast.audit.defended.run import run_defended
from holdfast.audit.defended.views import core_of, drawing, name_of, num_draws, plain, pool_info, pools, settings
from holdfast.audit.description import data_info, versions
from holdfast.audit.divided import Watcher
from holdfast.audit.feed import tensors
from holdfast.audit.preflight import look
from holdfast.audit.ranks import Alone, Ranks, by_first
from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.defences.defence import Defence
from holdfast.defences.mixup_inference import MixupInference
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models.doctor import raise_errors
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.defended import (
    OBLIVIOUS,
    DefendedInfo,
    DefendedSummary,
    OpeningInfo,
    attacked,
    finished_defended,
    read_defended,
)
from holdfast.records.schema import CLEAN
from holdfast.threats.threat import Threat

VARIES = 1e-4
"""A logit that moves by more than that, in units of the logits' size, from one evaluation to the next is drawn."""


@dataclass(frozen=True)
class DefenceAudit:
    """The outcome of an audit of a defence.

    Args:
        summary: the numbers, as ``defended/summary.json`` has them.
        info: what was asked, as ``defended/run.json`` has it.
        right: column (``clean``, ``oblivious``, ``adaptive``) -> whether each fresh evaluation is right, (n, m) bool.
        ids: the images, (n,) int64, in the order of those arrays.
        folder: where the run is written; None if it was asked to leave nothing behind.
    """

    summary: DefendedSummary
    info: DefendedInfo
    right: dict[str, np.ndarray]
    ids: np.ndarray
    folder: Path | None

    @property
    def verdict(self) -> str:
        """Whether anything was gained over the undefended model, against the adaptive attack."""
        return self.summary.verdict


def audit_defence(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    defence: Defence,
    *,
    threat: Threat,
    steps: int = 20,
    restarts: int = 2,
    budgets: Sequence[int] = (1, 5, 20),
    evaluations: int = 20,
    tries: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = DEFENDED,
    watch: Watcher | None = None,
) -> DefenceAudit:
    """A defence at inference, measured honestly: the undefended model, and the defended one against two attackers.

    The oblivious attacker finds points on the undefended model. The adaptive one knows all but the draws: it climbs the
    margin of the averaged probabilities through every opening of the defence, from the undefended model's points, with K
    draws a gradient and, at the same cost, with K times as many steps of one draw; K rises until the accuracy no longer
    falls by more than its standard error. Draws are held while a search compares points, others choose among its points,
    and fresh ones score them.

    Args:
        model, data: as `holdfast.audit`.
        defence: an instance. What predicts from other images of the batch is refused: use `audit_corruptions`.
        threat: the set: `Linf`, `L2` or `L1`.
        steps: of a search at K = 1. Searches on the undefended model take five times as many.
        restarts: runs of a search, each with other draws and from the best point so far.
        budgets: K, ascending.
        evaluations: fresh ones that score each image; a defence that draws nothing needs one.
        tries: of the estimand "worst of".
        seed: of every draw of the attacks, and of ``limit``. The defence has its own.
        out: a folder to write the run to, and to resume it from; nothing is left behind unless given.
        limit: a seeded subset of that many images; None: all of them.
        watch: called with a `Progress` as chunks are finished.

    Raises:
        HoldfastError: what was given cannot be evaluated as it stands; the hint says what to do.

    Sources: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018); Tramer et al.,
    "On adaptive attacks to adversarial example defenses" (NeurIPS 2020); Gao et al., "On the limitations of stochastic
    pre-processing defenses" (NeurIPS 2022), for one draw a step.
    """
    check_numbers(limit=limit, slots=None, seed=seed)
    effort = Effort(steps=steps, restarts=restarts, budgets=tuple(budgets), evaluations=evaluations, tries=tries)
    source = load_data(data, limit=limit, seed=seed)
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    subject = Subject(loaded, source, defence, threat, effort)
    info = describe_defended(subject, seed=seed, name=loaded.name)
    if out is not None:
        return _read(evaluate_defended(subject, info, Path(out), watch=watch), Path(out), keep=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        return _read(evaluate_defended(subject, info, Path(folder), watch=watch), Path(folder), keep=False)


def describe_defended(
    subject: Subject,
    *,
    seed: int,
    name: str,
    note: str = "",
    command: str = "",
    request: dict[str, Any] | None = None,
) -> DefendedInfo:
    """The run as it will be written; everything that can be refused is refused here.

    Raises:
        BadModel, BadData: the model, the images or the pool cannot be evaluated as they stand.
        BadValue: the defence or the set is of a kind that is not evaluated here.
    """
    model, source, defence, effort = subject.model, subject.source, subject.defence, subject.effort
    called = name_of(defence)
    if defence.transductive:
        raise BadValue(
            f"{called} answers by the other images of a batch as well, so that no attack on one image is defined",
            hint=f"evaluate it under corruptions: holdfast audit --corruptions all --adapt {called}",
        )
    APGD().check(subject.threat)
    looked = look(model, source)
    raise_errors(looked.findings)
    for check, remedy in (
        ("probabilities", "take the softmax out of the model; it is not needed to classify"),
        ("randomised", "give a model that repeats its answers: only the defence may draw here"),
        ("no gradient", "give a model whose logits can be differentiated in the image"),
    ):
        for finding in looked.findings:
            if finding.check == check:
                raise BadModel(f"{check}: {finding.saw}, and a defence is evaluated around logits", hint=remedy)
    for part in np.array_split(np.asarray(source.ids), -(-len(source) // 1000)):
        for pool in pools(defence):
            pool.check_apart(torch.from_numpy(np.ascontiguousarray(source.take(part).images)))
    with frozen(model.module):
        core = core_of(model)
        wrapped = drawing(defence.wrap(core))
        openings = [OpeningInfo(name=each.name, flat=each.flat) for each in defence.openings(core)[1:]]
        x, _ = tensors(source, np.asarray(source.ids)[:8], dtype=model.dtype, device=model.device)
        with torch.no_grad():
            one, other = wrapped.at(0)(x), wrapped.at(1)(x)
    moved = float((one - other).abs().amax() / one.abs().amax().clamp_min(torch.finfo(one.dtype).tiny))
    return DefendedInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        defence=called,
        settings={label: plain(value) for label, value in settings(defence)},
        pools=tuple(pool_info(pool) for pool in pools(defence)),
        openings=tuple(openings),
        # Votes of few draws may agree on all of these images.
        randomised=moved > VARIES or num_draws(defence) > 0,
        note=note,
        threat=subject.threat.name,
        eps=subject.threat.eps,
        steps=effort.steps,
        restarts=effort.restarts,
        budgets=effort.budgets,
        evaluations=effort.evaluations,
        tries=effort.tries,
        seed=seed,
        chunk=32 if model.device.type == "cpu" else 256,
        model=model.info(),
        data=data_info(source),
        findings=looked.findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def evaluate_defended(
    subject: Subject, info: DefendedInfo, folder: Path, *, watch: Watcher | None = None, ranks: Ranks | None = None
) -> DefendedSummary:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Args:
        ranks: the processes that share the work, each of which calls this.

    Raises:
        PlanMismatch, StorageError, BadFile, BadModel, Incomplete: as `run_defended`.
    """
    ranks = ranks or Alone()
    if known := by_first(ranks, lambda: finished_defended(folder, info)):
        return known
    found = run_defended(subject, info, folder, ranks=ranks, watch=watch)
    return by_first(
        ranks,
        lambda: conclude_defended(
            folder,
            info,
            found.lines,
            off=_off(subject),
            cost=found.cost,
            cost_attacked=found.cost_attacked,
            seconds=found.seconds,
        ),
    )


def _off(subject: Subject) -> bool | None:
    """Whether mixup inference that mixes nothing gives the model's logits to the last bit; None for other defences."""
    defence, model = subject.defence, subject.model
    if not isinstance(defence, MixupInference):
        return None
    full = {name: replace(each, lam=1.0) for name in ("pl", "ol") if (each := getattr(defence, name)) is not None}
    x, _ = tensors(subject.source, np.asarray(subject.source.ids)[:8], dtype=model.dtype, device=model.device)
    with frozen(model.module), torch.no_grad():
        return torch.equal(replace(defence, **full).wrap(core_of(model))(x), model(x))


def _read(summary: DefendedSummary, folder: Path, *, keep: bool) -> DefenceAudit:
    info = read_defended(folder)
    lines = {(line.stage, line.first): line for line in attacked(folder)}
    seen, last = gathered(lines, info), adaptive_stage(lines, info)
    right = {name: seen.right(stage) for name, stage in zip((CLEAN, OBLIVIOUS, "adaptive"), (CLEAN, OBLIVIOUS, last))}
    firsts = sorted(first for stage, first in lines if stage == CLEAN)
    ids = np.array([key for first in firsts for key in lines[CLEAN, first].ids], dtype=np.int64)
    return DefenceAudit(summary, info, right, ids, folder if keep else None)
