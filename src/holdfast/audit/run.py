"""Runs a plan on a model and a source, writing as it goes; a run that finds its folder goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.ascent.acceleration import Acceleration
from holdfast.ascent.frozen import repeatable
from holdfast.audit.conclude import conclude
from holdfast.audit.measured import measured, told
from holdfast.audit.plan import Plan
from holdfast.audit.ranks import Alone, Ranks
from holdfast.audit.session import Session, Watcher
from holdfast.data.source import Source
from holdfast.foundation.errors import BadData, BadModel
from holdfast.models.model import Model
from holdfast.records.files import storing
from holdfast.records.schema import RunInfo, Summary
from holdfast.records.shard import Shard
from holdfast.records.store import SUMMARY, Store, read_summary, same_run
from holdfast.threats.threat import Threat


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
        with _session(
            model,
            source,
            store,
            threat=threat,
            plan=plan,
            slots=slots,
            watch=watch,
            ranks=ranks,
            acceleration=acceleration,
        ) as session:
            changed = session.conditions() + told(store.info, model, session.copies, acceleration)
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
        with _session(
            model, source, shard, threat=threat, plan=plan, slots=slots, ranks=ranks, acceleration=acceleration
        ) as session:
            discarded = session.discarded
        ranks.gather(discarded)
    finally:
        shard.close()


@contextmanager
def _session(
    model: Model,
    source: Source,
    store: Store | Shard,
    *,
    threat: Threat,
    plan: Plan,
    slots: int | None,
    ranks: Ranks,
    acceleration: Acceleration,
    watch: Watcher | None = None,
) -> Iterator[Session]:
    """The session of this process, after its work; the model is still as it was during that."""
    ranks.gather("read")  # nothing is appended before all have read what there is
    with repeatable(model.module, seed=store.info.seed, device=model.device):
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
        yield session
