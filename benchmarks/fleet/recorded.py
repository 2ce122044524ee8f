"""Real runs by one and by several processes, with `fleet.worker`'s clock in them, and what the simulation makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from fleet.devices import tally
from fleet.slots import worked
from fleet.trace import Trace, read
from holdfast.audit.ranks import shares

HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """A finished run: its trace, the log of each process, its wall seconds from outside."""

    trace: Trace
    logs: list[dict[str, Any]]
    wall: float

    @property
    def searching(self) -> float:
        """Wall seconds of clean pass and stages, of the slowest process."""
        return max(sum(log["calls"][f"Session.{name}"][2] for name in ("clean", "stage")) for log in self.logs)


def launched(folder: Path, world: int, request: list[str]) -> Run:
    """``holdfast audit`` in ``folder``, which does not exist yet."""
    log = folder.with_name(f"{folder.name}.log")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    command = [sys.executable, *launcher, "-m", "fleet.worker", str(log), "audit", *request, "--out", str(folder), "-q"]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.monotonic()
    subprocess.run(
        command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, stdout=subprocess.DEVNULL
    )
    wall = time.monotonic() - began
    logs = [json.loads(log.with_name(f"{log.name}.{rank}.json").read_text()) for rank in range(world)]
    return Run(read(folder), logs, wall)


class Recorded:
    """The `holdfast.audit.ranks.Ranks` of a process that is told the answers it got in a real run."""

    def __init__(self, rank: int, world: int, answers: Iterator[int]) -> None:
        self.rank, self.world, self._answers = rank, world, answers

    def add(self, name: str, amount: int) -> int:
        return next(self._answers)


def replayed(run: Run) -> list[dict[str, Any]]:
    """Process by process and stage by stage: what the engine did, and what the simulation does with the same chunks.

    What it cannot know is how long a search would have gone on that was begun early and dropped.
    """
    world, told = len(run.logs), []
    for rank, log in enumerate(run.logs):
        for turn, (task, hunt) in enumerate(zip(run.trace.tasks, log["hunts"], strict=True), start=1):
            answers = log["taken"][f"taken {turn}"] if world > 1 else count(1)
            ranks = Recorded(rank, world, iter(answers))
            own, taken = shares(np.arange(len(task)), world * hunt["slots"], ranks, "")  # type: ignore[arg-type]
            counts: Counter[str] = Counter()
            for work in worked(task, (each.tolist() for each in chain([own], taken)), hunt["slots"]):
                tally(counts, work)
            real = {"steps": len(hunt["steps"])}
            real |= {f"rows {kind}": sum(rows for rows, _ in hunt[kind]) for kind in ("begun", "steps", "judged")}
            told.append(
                {"rank": rank, "stage": task.name, "real": real, "simulated": {name: counts[name] for name in real}}
            )
    return told
