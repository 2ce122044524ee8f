"""The checkpoint of a training: everything that the steps to come depend on, the one before it kept until it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from holdfast.foundation.errors import BadFile
from holdfast.records.files import storing, write_atomic
from holdfast.training.checkpoint import metadata
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
        if metadata(out / LAST):  # a torn one must not take the place of a whole one
            (out / LAST).replace(out / BEFORE)
    write_atomic(out / LAST, [text])


def resume(out: Path, identity: str, trainer: Trainer, watchdog: Watchdog) -> Running:
    """Loads the newest whole checkpoint, where there is one; all processes of the trainer's team what the first one finds.

    Where there is none, they begin with the first one's weights.

    Raises:
        BadFile: there are checkpoints, and none is whole.
    """
    team = trainer.team
    fresh = _Stored(_cpu(trainer.state()), watchdog=watchdog.stored()) if team.world > 1 else None
    found = team.by_first(lambda: _read(out, identity) or fresh)
    if found is None:
        return Running([])
    trainer.load(found.state, found.done)
    watchdog.load(found.watchdog, found.good or None, found.good_done)
    device = next(trainer.net.parameters()).device
    return replace(found.running, losses=list(found.losses.to(device).unbind()))


@dataclass(frozen=True)
class _Stored:
    """What a checkpoint says. ``good`` is empty where the state itself is good."""

    state: dict[str, Tensor]
    watchdog: str
    done: int = 0
    good: dict[str, Tensor] = field(default_factory=dict)
    good_done: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    running: Running = field(default_factory=lambda: Running([]))


def _read(out: Path, identity: str) -> _Stored | None:
    paths = [path for path in (out / LAST, out / BEFORE) if path.exists()]
    for path in paths:
        try:
            with safe_open(path, "pt", device="cpu") as file:
                said = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("identity") != identity:
                continue
            losses = state.pop("losses", torch.zeros(0))
            good = {name.removeprefix("good."): state.pop(name) for name in list(state) if name.startswith("good.")}
            running = Running([], *json.loads(said["running"]))
            return _Stored(state, said["watchdog"], int(said["done"]), good, int(said["good"]), losses, running)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            continue
    if paths:
        raise BadFile(
            f"neither {LAST} nor {BEFORE} in {out} is whole",
            hint="the best weights so far are in best_robust.safetensors; delete both files to begin again",
        )
    return None


def _cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}
