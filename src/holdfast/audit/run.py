"""Runs a plan on a model and a source, writing as it goes; a run that finds its folder goes on where it stopped."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast import __version__
from holdfast.ascent import engine
from holdfast.ascent.acceleration import Acceleration
from holdfast.ascent.frozen import float32_kept, frozen, rng_kept
from holdfast.ascent.halves import halves
from holdfast.ascent.halves import told as told_of
from holdfast.audit.checks import IMAGES, Probed, probe
from holdfast.audit.conclude import conclude
from holdfast.audit.faults import BEARABLE, working
from holdfast.audit.feed import tensors
from holdfast.audit.measured import asked, measured, told
from holdfast.audit.plan import Plan
from holdfast.audit.ranks import Alone, Ranks
from holdfast.audit.session import Session, Watcher, logarithmic
from holdfast.data.source import Source
from holdfast.foundation.errors import BadData, BadModel, HoldfastError
from holdfast.models.doctor import examine, raise_errors
from holdfast.models.model import Model
from holdfast.records.files import storing
from holdfast.records.schema import DataInfo, Finding, RunInfo, Summary
from holdfast.records.shard import Shard
from holdfast.records.store import SUMMARY, Store, read_summary, same_run
from holdfast.threats.threat import Threat

EXAMINED = 256
"""How many images the doctor looks at before an audit."""


class Examined(NamedTuple):
    """What the doctor saw: its findings, and the accuracy on the ``n`` images that it looked at, which are here, too."""

    findings: tuple[Finding, ...]
    accuracy: float
    n: int
    images: torch.Tensor
    labels: torch.Tensor


def look(model: Model, source: Source) -> Examined:
    """The doctor's view of this model on images spread evenly over this source. Raises nothing on errors found.

    Raises:
        BadData: the images themselves cannot be read.
    """
    return _look_at(model, source, _spread(source))


def _spread(source: Source) -> np.ndarray:
    ids = np.asarray(source.ids)
    count = min(len(ids), EXAMINED)
    return ids[np.arange(count) * len(ids) // count]


def _look_at(model: Model, source: Source, chosen: np.ndarray) -> Examined:
    images, labels = tensors(source, chosen, dtype=model.dtype, device=model.device)
    findings = examine(model, images, labels, source.class_names)
    right = torch.zeros(0)
    if not any(finding.level == "error" for finding in findings):
        with frozen(model.module), rng_kept(model.device):
            right = (engine.predict(model, images).argmax(1) == labels).float()
    return Examined(findings, float(right.mean()) if len(right) else float("nan"), len(chosen), images, labels)


def _look_past_failures(model: Model, source: Source) -> Examined:
    """The same without the images that cannot be read or evaluated, if these are few."""
    chosen = _spread(source)
    try:
        looked = _look_at(model, source, chosen)
        if not any(finding.check == "finite logits" for finding in looked.findings):
            return looked
    except Exception:  # a foreign forward may raise anything; what is not about a few images is raised again below
        pass
    left = working(model, source, chosen)
    lost = len(chosen) - len(left)
    if len(left) and lost <= BEARABLE:
        return _look_at(model, source, left)
    try:
        return _look_at(model, source, chosen)
    except HoldfastError:
        raise
    except Exception as error:
        raise _broken(f"on {lost} of {len(chosen)} images", error) from error


def _broken(where: str, error: Exception) -> BadModel:
    return BadModel(f"the model fails {where}: {told_of(error)}", hint="call it on these images yourself, and mend it")


class Preflight(NamedTuple):
    """What was found out about a model before its audit, and the evaluations of one image that it took."""

    findings: tuple[Finding, ...]
    evaluations: int


def examined(model: Model, source: Source, plan: Plan, threat: Threat) -> Preflight:
    """What the doctor, and the probe of the model's gradients, find before an audit by this plan.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands, or not by this plan.
    """
    looked = _look_past_failures(model, source)
    findings = looked.findings
    raise_errors(findings)
    for finding in findings:
        if finding.check == "no gradient" and any(stage.attack.needs == "gradients" for stage in plan.stages):
            raise BadModel(
                f"{finding.check}: {finding.saw}, and the plan {plan.name} searches by gradients", hint=finding.remedy
            )
    if any(finding.check == "randomised" for finding in findings) and plan.draws == 1:
        raise BadModel(
            "randomised: two evaluations of the same images differ, so that one gradient is not the model's",
            hint=f"the plan {plan.name} needs a model that repeats its answers; use --plan rand, which averages over draws",
        )
    seen = _probed(model, looked, threat)
    known = {finding.check for finding in findings}
    new = tuple(finding for finding in seen.findings if finding.check not in known)
    return Preflight(findings + new, seen.forwards + seen.backwards)


def _probed(model: Model, looked: Examined, threat: Threat) -> Probed:
    """What the probe sees, without the images near which the model raises, if these are few."""
    classifier = logarithmic(model.module, looked.findings)
    failed: list[int] = []

    def probed(rows: list[int]) -> Probed:
        return probe(classifier, looked.images[rows], looked.labels[rows], threat)

    def fail(row: int, error: Exception) -> None:
        failed.append(row)
        if len(failed) > BEARABLE:
            raise _broken(f"near more than {BEARABLE} of {len(rows)} images", error) from error

    rows = list(range(len(looked.images)))
    try:
        return probed(rows)
    except Exception:  # a foreign forward may raise anything
        tried = halves(lambda at: probed(rows[at]), len(rows), IMAGES, fail)
    return probed([row for row in rows if row not in failed][: tried.most])


def describe(
    model: Model,
    source: Source,
    *,
    threat: Threat,
    curve: Sequence[float],
    plan: Plan,
    seed: int,
    preflight: Preflight,
    name: str,
    acceleration: Acceleration = Acceleration(),  # noqa: B008 - frozen
    command: str = "",
    request: dict[str, Any] | None = None,
) -> RunInfo:
    """The run as it will be written."""
    return RunInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        plan=plan.name,
        stages=tuple(stage.info() for stage in plan.stages),
        draws=plan.draws,
        threat=threat.name,
        eps=threat.eps,
        curve=tuple(sorted({*curve, threat.eps})),
        seed=seed,
        model=model.info(),
        data=data_info(source),
        findings=preflight.findings,
        checks=preflight.evaluations,
        versions={**versions(), "threads": str(torch.get_num_threads()), **asked(model, acceleration)},
        command=command,
        request=request or {},
    )


def data_info(source: Source) -> DataInfo:
    """What a run writes about the images."""
    return DataInfo(
        name=source.name,
        fingerprint=source.fingerprint(),
        n=len(source),
        shape=source.shape,
        class_names=source.class_names,
    )


def versions() -> dict[str, str]:
    """What the answers depend on besides the model and the data."""
    return {
        "holdfast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@contextmanager
def _seeded(seed: int, model: Model) -> Iterator[None]:
    """A randomised model draws from the run's seed within; afterwards all generators are as they were.

    Verdicts in float32 are verdicts in float32.
    """
    with rng_kept(model.device), float32_kept():
        torch.manual_seed(seed)
        yield


def run(
    model: Model,
    source: Source,
    info: RunInfo,
    folder: Path,
    *,
    threat: Threat,
    plan: Plan,
    slots: int | None = None,
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
    acceleration: Acceleration = Acceleration(),  # noqa: B008 - frozen
) -> Summary:
    """Runs or resumes the audit that ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Samples that fail (`holdfast.audit.faults`) are named in the summary, and tried again by the next call.

    ``ranks``: the processes that share the work, of which this is the first; the others call `lend_a_hand`.
    ``acceleration``: what the searches are made faster by; it may be another one than the run began with.

    Raises:
        PlanMismatch: the folder holds another run.
        StorageError: it cannot be written; what is finished stays finished.
        BadModel: the model fails on more than a few samples; likewise.
        Incomplete: another process ended; likewise.
    """
    ranks = ranks or Alone()
    if (folder / SUMMARY).exists():
        same_run(folder, info)
        summary = read_summary(folder)
        if not summary.failed:
            ranks.gather(None)
            return summary
    store = Store(folder, info)
    try:
        with storing(folder):
            (folder / SUMMARY).unlink(missing_ok=True)
        ranks.gather(store.info)
        ranks.gather("read")  # nothing is appended before all have read what there is
        with frozen(model.module), _seeded(info.seed, model):
            session = Session(
                model,
                source,
                store,
                threat=threat,
                plan=plan,
                slots=slots,
                watch=watch,
                ranks=ranks,
                acceleration=acceleration,
            )
            session.run()
            changed = session.changed() + session.cramped()
            changed += told(store.info, model, session.copies, acceleration)
        discarded = sum(ranks.gather(session.discarded))
        seconds = store.finish(discarded)
        return conclude(
            store,
            source,
            plan=plan,
            past=session.past(None, info.eps),
            changed=changed,
            asked=session.asked,
            seconds=seconds,
            discarded=store.past_discarded + discarded,
            measured=measured(model, session.copies, session.slots),
            failed=sorted(session.failed.values(), key=lambda failure: failure.id),
        )
    finally:
        store.close()


def lend_a_hand(
    model: Model,
    source: Source,
    folder: Path,
    *,
    threat: Threat,
    plan: Plan,
    slots: int | None,
    ranks: Ranks,
    acceleration: Acceleration = Acceleration(),  # noqa: B008 - frozen
) -> None:
    """The part of a run of the processes that are not the first; see `run`.

    Raises:
        BadModel: the model is not that of the first process, or fails on more than a few samples.
        BadData: the images are not those of the first process.
        StorageError: the folder is not that of the first process, or cannot be written.
        Incomplete: another process ended.
    """
    info = ranks.gather(None)[0]
    if info is None:
        return  # the run is finished
    if model.fingerprint != info.model.fingerprint:
        raise BadModel(
            f"process {ranks.rank} loads another model than process 0",
            hint="every process builds the model anew: give it weights, or seed what its factory draws",
        )
    if source.fingerprint() != info.data.fingerprint:
        raise BadData(
            f"process {ranks.rank} reads other images than process 0", hint="give all hosts the same copy of the data"
        )
    shard = Shard(folder, info, ranks.rank)
    try:
        ranks.gather("read")
        with frozen(model.module), _seeded(info.seed, model):
            session = Session(
                model,
                source,
                shard,
                threat=threat,
                plan=plan,
                slots=slots,
                watch=None,
                ranks=ranks,
                acceleration=acceleration,
            )
            session.run()
        ranks.gather(session.discarded)
    finally:
        shard.close()
