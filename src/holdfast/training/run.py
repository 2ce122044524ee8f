"""A training in a folder: validated as it goes, written as it goes, resumed to the same bits.

``training.json`` says what was asked; ``log.jsonl`` has a line an epoch; ``last.safetensors`` is everything that the steps
to come depend on (``last-1`` the one before it, should a disk tear the last); ``best_robust.safetensors`` and
``best_clean.safetensors`` are weights to be used, chosen on images that were held out of the training data. The test data
has no part in any choice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from holdfast import __version__
from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.audit.feed import tensors
from holdfast.data.source import Source, Subset, subset
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadFile, PlanMismatch
from holdfast.records.files import storing, write_atomic
from holdfast.records.lines import append, locked, repaired
from holdfast.records.part import read_document
from holdfast.records.schema import Finding, Frozen
from holdfast.training.checkpoint import declared
from holdfast.training.loop import Trainer
from holdfast.training.recipe import Recipe

RUN, LOG, LAST, BEFORE, ROBUST, CLEAN = (
    "training.json",
    "log.jsonl",
    "last.safetensors",
    "last-1.safetensors",
    "best_robust.safetensors",
    "best_clean.safetensors",
)

HELD_OUT = 1000
"""How many training images are held out for choosing the best weights, at most; at most a tenth of all."""

SAVE_EVERY = 60.0
"""Seconds between two saves within an epoch."""

_GAP = 0.2
"""By how much FGSM accuracy lies above PGD accuracy after catastrophic overfitting (Wong, Rice and Kolter 2020)."""


class TrainingInfo(Frozen):
    """What was asked for. ``recipe``: its fields as text; ``identity``: a digest of net, recipe, data and version."""

    schema_version: int = 1
    created: str
    net: str
    options: dict[str, Any]
    recipe: dict[str, str]
    data: str
    n: int
    held_out: int
    identity: str
    command: str = ""


class EpochRecord(Frozen):
    """One epoch: the mean loss over its steps, and the accuracy of what is judged on the images that were held out.

    ``robust``: after PGD of 10 steps, ``single``: after FGSM; both equal ``clean`` where the radius is 0.
    """

    epoch: int
    loss: float
    clean: float
    robust: float
    single: float
    seconds: float
    findings: tuple[Finding, ...] = ()


Watcher = Callable[[EpochRecord, int], None]
"""Called with each finished epoch and the number of all."""


def train(
    net: str,
    source: Source,
    recipe: Recipe,
    out: Path,
    *,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
    command: str = "",
    watch: Watcher | None = None,
) -> list[EpochRecord]:
    """Trains a registered net in the folder ``out``, or goes on where that was stopped; returns all epochs.

    Args:
        net: its registry name; ``options``: its keyword arguments.
        source: the training data; some of it is held out.
        recipe: how.
        device: where to compute.
        watch: called after every epoch.

    Raises:
        PlanMismatch: ``out`` holds another training.
        BadData: too few images to hold some out.
        BadModel: the loss became infinite or NaN; the best weights are kept.
        BadFile: neither of the two last checkpoints is whole.
        StorageError: the folder cannot be written.
    """
    if len(source) < 20:
        raise BadData(f"{source.name} has {len(source)} images", hint="train on at least 20")
    held = subset(source, min(HELD_OUT, len(source) // 10), recipe.seed)
    ids = np.asarray(source.ids)
    kept = Subset(source, ids[~np.isin(ids, held.ids)])
    given = dict(options or {})
    info = TrainingInfo(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        net=net,
        options=given,
        recipe={name: repr(value) for name, value in vars(recipe).items()},
        data=source.name,
        n=len(kept),
        held_out=len(held),
        identity=hashlib.sha256(
            f"{net}|{given!r}|{recipe!r}|{source.fingerprint()}|{__version__}".encode()
        ).hexdigest()[:16],
        command=command,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = registry.load("net", net)(
            **{"channels": source.shape[0], "classes": len(source.class_names), "size": source.shape[1], **given}
        )
    trainer = Trainer(module.to(device), kept, recipe)
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
        lines = locked(out / LOG)
    try:
        _same(out, info)
        history = list(repaired(out / LOG, EpochRecord))
        losses = _resume(trainer, out, info)
        history = history[: trainer.done // trainer.per_epoch]
        _cut(out / LOG, len(history))
        return _epochs(trainer, held, out, info, history, losses, lines, net, watch)
    finally:
        lines.close()


def _epochs(
    trainer: Trainer,
    held: Source,
    out: Path,
    info: TrainingInfo,
    history: list[EpochRecord],
    losses: list[Tensor],
    lines: Any,
    net: str,
    watch: Watcher | None,
) -> list[EpochRecord]:
    recipe, began, saved = trainer.recipe, time.monotonic(), time.monotonic()
    past = history[-1].seconds if history else 0.0
    while not trainer.finished:
        losses.append(trainer.step())
        ended = trainer.done % trainer.per_epoch == 0
        if not ended and time.monotonic() - saved > SAVE_EVERY:
            _save(trainer, out, info, losses)
            saved = time.monotonic()
        if not ended:
            continue
        mean = float(torch.stack(losses).mean())
        trainer.check(mean)
        record = _judged(trainer, held, mean, past + time.monotonic() - began, history)
        best = max(history, key=lambda each: (each.robust, each.clean), default=None)
        if best is None or (record.robust, record.clean) > (best.robust, best.clean):
            _keep(trainer, out / ROBUST, info, net, recipe, record)
        if not history or record.clean > max(each.clean for each in history):
            _keep(trainer, out / CLEAN, info, net, recipe, record)
        losses = []
        # The line first: a checkpoint without its line would leave the epoch out of the log for ever.
        with storing(out):
            append(lines, record)
        history.append(record)
        _save(trainer, out, info, losses)
        saved = time.monotonic()
        if watch:
            watch(record, recipe.epochs)
    return history


def _judged(trainer: Trainer, held: Source, loss: float, seconds: float, history: list[EpochRecord]) -> EpochRecord:
    """The accuracy of what the training would give now, on the images that were held out."""
    module = trainer.judged.eval()
    parameter = next(module.parameters())
    x, y = tensors(held, held.ids, dtype=parameter.dtype, device=parameter.device)
    threat, seed = trainer.recipe.threat, trainer.recipe.seed
    with frozen(module):
        logits = engine.predict(module, x)
        clean = float((logits.argmax(1) == y).double().mean())
        found = {
            name: float((~attack(module, x, y, threat=threat, seed=seed).fooled).double().mean())
            if threat.eps
            else clean
            for name, attack in (("robust", PGD(steps=10)), ("single", FGSM()))
        }
        constant = bool((logits.argmax(1) == logits.argmax(1)[0]).all())
    findings = []
    if constant and len(y.unique()) > 1:
        findings.append(
            _warning(
                "constant network",
                "the net gives one answer to all held-out images",
                "it has learned nothing, as small nets at large radii can (Madry et al. 2018, section 4)",
                "lengthen the warm-up of the radius (warm_up), lower the learning rate, or take a wider net",
            )
        )
    best = max((each.robust for each in history), default=0.0)
    if found["single"] - found["robust"] > _GAP and found["robust"] < best - _GAP:
        findings.append(
            _warning(
                "catastrophic overfitting",
                f"FGSM leaves {found['single']:.0%} right, PGD {found['robust']:.0%}, which was {best:.0%} before",
                "the net has learned to bend its loss within one step; best_robust.safetensors is from before",
                "train with n_fgsm or with more steps",
            )
        )
    return EpochRecord(epoch=trainer.epoch, loss=loss, clean=clean, seconds=seconds, findings=tuple(findings), **found)


def _warning(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="warning", saw=saw, means=means, remedy=remedy)


def _keep(trainer: Trainer, path: Path, info: TrainingInfo, net: str, recipe: Recipe, record: EpochRecord) -> None:
    """Weights to be used, with what they are in the metadata."""
    state = {name: value.detach().cpu().contiguous() for name, value in trainer.judged.state_dict().items()}
    more = {
        "epoch": str(record.epoch),
        "held_out_clean": f"{record.clean:.4f}",
        "held_out_robust": f"{record.robust:.4f}",
    }
    write_atomic(path, [save(state, declared(net, recipe, info.identity, info.data) | more)])


def _save(trainer: Trainer, out: Path, info: TrainingInfo, losses: list[Tensor]) -> None:
    """The checkpoint; the one before it stays until this one is whole."""
    state = trainer.state()
    if losses:
        state["losses"] = torch.stack(losses)
    text = save(
        {name: value.cpu() for name, value in state.items()}, {"identity": info.identity, "done": str(trainer.done)}
    )
    with storing(out):
        if (out / LAST).exists():
            (out / LAST).replace(out / BEFORE)
    write_atomic(out / LAST, [text])


def _resume(trainer: Trainer, out: Path, info: TrainingInfo) -> list[Tensor]:
    """Loads the newest whole checkpoint; returns the losses of the epoch that it stands in.

    Raises:
        BadFile: there are checkpoints, and none is whole.
    """
    found = [path for path in (out / LAST, out / BEFORE) if path.exists()]
    for path in found:
        try:
            with safe_open(path, "pt", device="cpu") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("identity") != info.identity:
                continue
            losses = state.pop("losses", torch.zeros(0))
            trainer.load(state, int(metadata["done"]))
            return list(losses.unbind())
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
            continue
    if found:
        raise BadFile(
            f"neither {LAST} nor {BEFORE} in {out} is whole",
            hint=f"the best weights so far are in {ROBUST}; delete both files to begin again",
        )
    return []


def _same(out: Path, info: TrainingInfo) -> None:
    if not (out / RUN).exists():
        write_atomic(out / RUN, [info.model_dump_json(indent=2).encode()])
        return
    known = read_document(out / RUN, TrainingInfo)
    if known.identity != info.identity:
        other = [key for key in info.recipe if known.recipe.get(key) != info.recipe[key]]
        what = (
            f"its {other[0]} is {known.recipe.get(other[0])}, now it is {info.recipe[other[0]]}"
            if other
            else (f"{known.net} on {known.data}, now {info.net} on {info.data}, or of another version")
        )
        raise PlanMismatch(f"{out} holds another training: {what}", hint="give a new folder with --out")


def _cut(path: Path, lines: int) -> None:
    """Drops the lines of epochs that came after the checkpoint: they are run again, to the same bits."""
    text = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as file:
        file.truncate(sum(map(len, text[:lines])))
