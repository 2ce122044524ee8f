"""The checkpoint of a training: everything that the steps to come depend on, the one before it kept until it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from holdfast.foundation.errors import BadFile
from holdfast.records.files import storing, write_atomic
from holdfast.training.loop import Trainer
from holdfast.training.watchdog import Watchdog

LAST, BEFORE = "last.safetensors", "last-1.safetensors"


@dataclass
class Running:
    """Where a training in a folder stands, besides the trainer and the watchdog.

    Args:
        losses: of the steps of this epoch, detached.
        unseen: how many of the last of them the watchdog has not seen.
        epochs, probes: lines written so far.
        seconds: spent so far.
    """

    losses: list[Tensor]
    unseen: int = 0
    epochs: int = 0
    probes: int = 0
    seconds: float = 0.0


def store(out: Path, identity: str, trainer: Trainer, watchdog: Watchdog, running: Running) -> None:
    """Writes the checkpoint; the one before it stays until this one is whole. Raises StorageError."""
    state = trainer.state()
    good, good_done = watchdog.good
    if good_done != trainer.done:
        state |= {f"good.{name}": value for name, value in good.items()}
    if running.losses:
        state["losses"] = torch.stack(running.losses)
    said = {
        "identity": identity,
        "done": str(trainer.done),
        "good": str(good_done),
        "watchdog": watchdog.stored(),
        "running": json.dumps([running.unseen, running.epochs, running.probes, running.seconds]),
    }
    text = save(_cpu(state), said)
    with storing(out):
        if (out / LAST).exists():
            (out / LAST).replace(out / BEFORE)
    write_atomic(out / LAST, [text])


def resume(out: Path, identity: str, trainer: Trainer, watchdog: Watchdog) -> Running:
    """Loads the newest whole checkpoint, where there is one.

    Raises:
        BadFile: there are checkpoints, and none is whole.
    """
    found = [path for path in (out / LAST, out / BEFORE) if path.exists()]
    for path in found:
        try:
            with safe_open(path, "pt", device="cpu") as file:
                said = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("identity") != identity:
                continue
            losses = state.pop("losses", torch.zeros(0))
            good = {name.removeprefix("good."): state.pop(name) for name in list(state) if name.startswith("good.")}
            unseen, epochs, probes, seconds = json.loads(said["running"])
            trainer.load(state, int(said["done"]))
            watchdog.load(said["watchdog"], good or None, int(said["good"]))
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
            continue
        device = next(trainer.net.parameters()).device
        return Running(list(losses.to(device).unbind()), unseen, epochs, probes, seconds)
    if found:
        raise BadFile(
            f"neither {LAST} nor {BEFORE} in {out} is whole",
            hint="the best weights so far are in best_robust.safetensors; delete both files to begin again",
        )
    return Running([])


def together(trainer: Trainer, watchdog: Watchdog, running: Running) -> Running:
    """All processes of the trainer's team stand where the first one does, with its weights; returns its ``running``."""
    team, device = trainer.team, next(trainer.net.parameters()).device
    if team.world == 1:
        return running
    own, (good, good_done) = trainer.state(), watchdog.good
    kept = None if good_done == trainer.done else _cpu(good)
    losses = [each.cpu() for each in running.losses]
    state, done, memory, good, good_done, running = team.by_first(
        lambda: (_cpu(own), trainer.done, watchdog.stored(), kept, good_done, replace(running, losses=losses))
    )
    if team.rank:
        trainer.load(state, done)
        watchdog.load(memory, good, good_done)
    return replace(running, losses=[each.to(device) for each in running.losses])


def _cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}
