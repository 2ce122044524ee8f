"""A training in a folder: validated as it goes, written as it goes, watched over, resumed to the same bits.

``training.json`` says what was asked; ``log.jsonl`` has a line an epoch, ``probes.jsonl`` one for every look of the
watchdog; ``last.safetensors`` is everything that the steps to come depend on (``last-1`` the one before it, should a disk
tear the last); ``best_robust.safetensors`` and ``best_clean.safetensors`` are weights to be used, chosen on images that were
held out of the training data, ``final.safetensors`` those after the last step. The test data has no part in any choice.
Of several processes the first one writes, and the others do and decide as it does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast import __version__
from holdfast.audit.feed import tensors
from holdfast.audit.ranks import Ranks
from holdfast.data.source import Source, Subset, subset
from holdfast.foundation.errors import BadData, BadModel, BadValue, PlanMismatch
from holdfast.models.load import build
from holdfast.models.probe import probe
from holdfast.objectives.objective import Objective
from holdfast.records.files import output_folder, storing
from holdfast.records.lines import append, locked
from holdfast.training.checkpoint import declared, digest, keep, restored
from holdfast.training.folder import (
    CLEAN,
    FINAL,
    LOG,
    PROBES,
    ROBUST,
    EpochRecord,
    TrainingInfo,
    claim,
    lines,
    worth,
)
from holdfast.training.held_out import Judge, constant_network, judged, one_answer, overfitting
from holdfast.training.loop import Trainer
from holdfast.training.plan import TrainingPlan, planned
from holdfast.training.recipe import Recipe
from holdfast.training.saved import Running, resume, store
from holdfast.training.team import Team, connected
from holdfast.training.watchdog import NO_NUMBER, ProbeRecord, Watchdog

HELD_OUT = 1000
"""How many training images are held out for choosing the best weights, at most; at most a tenth of all."""

SAVE_EVERY = 60.0
"""Seconds between two saves within an epoch."""


@dataclass(frozen=True)
class Watch:
    """Who is told of a training as it goes.

    Args:
        plan: of what it will cost, once, before it begins or goes on.
        step: of every step: those done, and all.
        probe: of every look of the watchdog.
        epoch: of every finished epoch, and the number of all.
    """

    plan: Callable[[TrainingPlan], None] = lambda plan: None
    step: Callable[[int, int], None] = lambda done, total: None
    probe: Callable[[ProbeRecord], None] = lambda probe: None
    epoch: Callable[[EpochRecord, int], None] = lambda record, epochs: None


@dataclass(frozen=True)
class Training:
    """What a training came to: its ``epochs``, the ``probes`` of the watchdog, and why it ended early, or ``""``."""

    epochs: tuple[EpochRecord, ...]
    probes: tuple[ProbeRecord, ...]
    stopped: str

    @property
    def best(self) -> EpochRecord:
        """The epoch of the most robust weights; among equals that of the most accurate."""
        return max(self.epochs, key=worth)


def train(
    net: str,
    source: Source,
    recipe: Recipe,
    out: Path,
    *,
    options: dict[str, Any] | None = None,
    extra: Source | None = None,
    helper: Path | None = None,
    device: str = "cpu",
    command: str = "",
    watch: Watch | None = None,
    ranks: Ranks | None = None,
    shard: bool = False,
) -> Training:
    """Trains a net in the folder ``out``, or goes on where that was stopped.

    Args:
        net: its registry name, or ``"your_module:factory"``.
        source: the training data; some of it is held out.
        recipe: how.
        options: keyword arguments of the net.
        extra: more data, of which every batch has ``recipe.extra_share``.
        helper: weights that an earlier training wrote, for objectives that need another net (`holdfast.objectives.hat`).
        device: where to compute.
        watch: who is told, by the first process.
        ranks: the processes that divide every step; this one alone unless given. Each calls this with the same arguments.
        shard: whether they divide the net, too (`holdfast.training.sharded`).

    Raises:
        PlanMismatch: ``out`` holds another training, or another process was given one.
        BadValue: several processes or parts are to divide what cannot be divided.
        Incomplete: another process has ended; the same call goes on from the last checkpoint.
        BadData: too few images to hold some out, or extra data of another shape.
        BadModel: the loss became infinite or NaN, and no repair was asked for or helped; the best weights are kept.
        BadFile: neither of the two last checkpoints is whole.
        StorageError: the folder cannot be written.
    """
    if len(source) < 20:
        raise BadData(f"{source.name} has {len(source)} images", hint="train on at least 20")
    if extra is not None and extra.shape != source.shape:
        raise BadData(f"the extra data are {extra.shape}, the data {source.shape}", hint="give images of one shape")
    held, kept = parted(source, recipe.seed)
    classes, given = len(source.class_names), dict(options or {})
    if recipe.objective.outputs:
        given = {"classes": classes + recipe.objective.outputs, **given}
    parts = [net, repr(given), repr(recipe), source.fingerprint(), __version__]
    parts += [extra.fingerprint()] if extra is not None else []
    parts += [digest(helper)] if helper is not None else []
    info = TrainingInfo(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        net=net,
        options=given,
        recipe={name: repr(value) for name, value in vars(recipe).items()},
        data=source.name,
        extra="" if extra is None else extra.name,
        n=len(kept),
        held_out=len(held),
        identity=hashlib.sha256("|".join(parts).encode()).hexdigest()[:16],
        command=command,
    )
    module = build(net, shape=source.shape, classes=classes, options=given, seed=recipe.seed).to(device)
    dtype = next(module.parameters()).dtype
    outputs = probe(module, source.shape, dtype=dtype, device=device)
    if outputs < classes:
        raise BadModel(
            f"{net} has {outputs} outputs, and the data have {classes} classes", hint=f"build it with classes={classes}"
        )
    helped = recipe if helper is None else _with_helper(recipe, helper, device)
    team = Team(ranks, device)
    trainer = Trainer(module, kept, helped, extra=extra, team=team, sharded=shard)
    files: list[FileIO] = []
    try:
        if not team.rank:
            with storing(out):
                output_folder(out)
                files += map(locked, (out / LOG, out / PROBES))
            claim(out, info)
        if team.by_first(lambda: info.identity) != info.identity:
            raise PlanMismatch(
                f"process {team.rank} was given another training than process 0",
                hint="give all hosts the same command, the same copy of the data and the same version of holdfast",
            )
        told = Watch() if watch is None or team.rank else watch
        plan = planned(trainer)
        told.plan(plan)
        watchdog = Watchdog(trainer, plan.passes)
        running = resume(out, info.identity, trainer, watchdog)
        epochs, looks = team.by_first(
            lambda: (
                lines(out / LOG, EpochRecord, running.epochs),
                lines(out / PROBES, ProbeRecord, running.probes),
            )
        )
        x, y = tensors(held, held.ids, dtype=dtype, device=torch.device(device))
        run = _Run(
            trainer=trainer,
            watchdog=watchdog,
            running=running,
            out=out,
            info=info,
            declared=declared(net, given, source, recipe, info.identity),
            judge=lambda module: judged(
                module, x, y, recipe.threat, recipe.seed, outputs=recipe.objective.outputs, team=team
            ),
            constant=lambda module: len(y.unique()) > 1 and one_answer(module, x),
            files=files,
            watch=told,
        )
        with connected():
            run.go(epochs, looks)
        return Training(tuple(epochs), tuple(looks), watchdog.memory.stopped)
    finally:
        for file in files:
            file.close()


def parted(source: Source, seed: int) -> tuple[Source, Source]:
    """The images that are held out, a tenth of all and at most `HELD_OUT`, and those that are trained on."""
    held = subset(source, min(HELD_OUT, len(source) // 10), seed)
    ids = np.asarray(source.ids)
    return held, Subset(source, ids[~np.isin(ids, held.ids)])


@dataclass
class _Run:
    """One call of `train`. ``files``: the log and that of the probes, of the process that writes; no other has any."""

    trainer: Trainer
    watchdog: Watchdog
    running: Running
    out: Path
    info: TrainingInfo
    declared: dict[str, str]
    judge: Judge
    constant: Callable[[torch.nn.Module], bool]
    files: list[FileIO]
    watch: Watch

    def go(self, epochs: list[EpochRecord], looks: list[ProbeRecord]) -> None:
        """All steps that are left; ``epochs`` and ``looks`` grow."""
        trainer, watchdog, running = self.trainer, self.watchdog, self.running
        began, past, saved = time.monotonic(), running.seconds, time.monotonic()
        while not (trainer.finished or watchdog.memory.stopped):
            running.losses.append(trainer.step())
            running.unseen += 1
            self.watch.step(trainer.done, trainer.total)
            ended = trainer.done % trainer.per_epoch == 0
            if watchdog.due:
                probe = watchdog.look(torch.stack(running.losses[-running.unseen :]))
                running.unseen, running.probes = 0, running.probes + 1
                if self.files:
                    with storing(self.out):
                        append(self.files[1], probe)
                looks.append(probe)
                self.watch.probe(probe)
                if probe.repair:
                    del running.losses[trainer.done % trainer.per_epoch :]
                    ended = False
            running.seconds = past + time.monotonic() - began
            if ended and not watchdog.memory.stopped:
                self._epoch(epochs, looks)
            late = time.monotonic() - saved > SAVE_EVERY
            if trainer.sharded:
                late = trainer.team.by_first(lambda late=late: late)
            if ended or watchdog.memory.stopped or late:
                self._store()
                saved = time.monotonic()
        if trainer.finished and trainer.team.by_first(lambda: not (self.out / FINAL).exists()):
            self._keep(trainer.judged(), FINAL, self.declared | {"epoch": str(trainer.epoch)})
        trainer.team.by_first(lambda: None)  # what the first process writes is whole before another one goes on
        stopped = watchdog.memory.stopped
        if stopped.startswith(NO_NUMBER):
            best = f"the weights of the best epoch are in {self.out / ROBUST}" if epochs else "no epoch was finished"
            raise BadModel(f"{stopped}; {best}", hint="train with a smaller learning rate (lr)")

    def _epoch(self, epochs: list[EpochRecord], looks: list[ProbeRecord]) -> None:
        """Judges what the training would give now, keeps it if it is the best so far, and says so."""
        trainer, running = self.trainer, self.running
        net = trainer.judged()
        with trainer.gathered():
            found, constant = self.judge(net), constant_network() if self.constant(net) else None
        new = [probe for probe in looks if probe.step > trainer.done - trainer.per_epoch]
        findings = {each.check: each for probe in new for each in probe.findings}
        overfitted = overfitting(epochs, found.robust, looks[-1].robust if looks else 0.0)
        if overfitted is not None and trainer.recipe.watch == "stop":
            self.watchdog.end(f"robust overfitting after epoch {trainer.epoch}")
        for finding in overfitted, constant:
            if finding is not None:
                findings.setdefault(finding.check, finding)
        loss = float(torch.stack(running.losses).mean())
        record = trainer.team.by_first(
            lambda: EpochRecord(
                epoch=trainer.epoch,
                loss=loss,
                seconds=running.seconds,
                watched=self.watchdog.seconds,
                findings=tuple(findings.values()),
                **found._asdict(),
            )
        )
        said = self.declared | {
            "epoch": str(record.epoch),
            "held_out_clean": f"{record.clean:.4f}",
            "held_out_robust": f"{record.robust:.4f}",
        }
        if not epochs or worth(record) > max(map(worth, epochs)):
            self._keep(net, ROBUST, said)
        if not epochs or record.clean > max(each.clean for each in epochs):
            self._keep(net, CLEAN, said)
        # The line first: a checkpoint without its line would leave the epoch out of the log for ever.
        if self.files:
            with storing(self.out):
                append(self.files[0], record)
        epochs.append(record)
        running.losses, running.epochs = [], running.epochs + 1
        self.watch.epoch(record, trainer.recipe.epochs)

    def _keep(self, net: torch.nn.Module, name: str, said: dict[str, str]) -> None:
        state = self.trainer.weights(net)
        if self.files:
            keep(state, self.out / name, said)

    def _store(self) -> None:
        if self.files:
            store(self.out, self.info.identity, self.trainer, self.watchdog, self.running)
        elif self.trainer.sharded:
            self.trainer.state()  # the pieces of this process, for the first one


def _with_helper(recipe: Recipe, path: Path, device: str) -> Recipe:
    """The recipe whose objectives have the net of that file for a helper."""

    def helped(objective: Any) -> Objective:
        if "helper" not in {each.name for each in dataclasses.fields(objective)}:
            raise BadValue(
                f"{type(objective).__name__} takes no helper", hint="leave --helper out, or use the recipe hat"
            )
        return dataclasses.replace(objective, helper=net)

    net = restored(path).to(device)
    later = tuple((start, helped(each)) for start, each in recipe.later)
    return dataclasses.replace(recipe, objective=helped(recipe.objective), later=later)
