"""Measures the costs of `fleet.costs` on this machine: CPU seconds of one thread where that is what is spent, else wall.

Of every repeated measurement the fastest counts: other programs only ever make it slower.
"""

from __future__ import annotations

import multiprocessing
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fleet.worker import Hunt
from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.attack import Attack
from holdfast.ascent.engine import Batch
from holdfast.ascent.meter import Meter
from holdfast.attacks.apgd import APGD
from holdfast.attacks.fab import FAB
from holdfast.attacks.square import Square
from holdfast.nets.preact_resnet18 import PreActResNet18
from holdfast.nets.small_cnn import SmallCNN
from holdfast.records.known import Known, Outcome
from holdfast.records.schema import DataInfo, ModelInfo, Record, RunInfo
from holdfast.records.shard import Shard
from holdfast.records.store import Store
from holdfast.threats.linf import Linf

NETS = {
    "small_cnn, 1x32x32": (SmallCNN, (1, 32, 32), (1, 8, 64, 256)),
    "preact_resnet18, 3x32x32": (PreActResNet18, (3, 32, 32), (1, 4, 16)),
}
"""Net, shape of an image, rows in flight."""
ATTACKS: dict[str, Attack] = {
    "apgd": APGD(steps=4, loss="ce"),
    "fab": FAB(steps=4, targets=1),
    "square": Square(steps=8),
}
LINES = 2000
"""Records that are written and taken over."""


def fastest(work: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of some repeats."""
    took = []
    for _ in range(repeats):
        began = clock()
        work()
        took.append(clock() - began)
    return min(took)


def line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """``batch`` and ``row`` of the line through (rows, seconds), errors weighted by the seconds; none below 0."""
    rows, seconds = np.array(points).T
    design = np.stack([np.ones_like(rows), rows], 1) / seconds[:, None]
    batch, row = np.linalg.lstsq(design, np.ones_like(rows), rcond=None)[0]
    return (max(0.0, float(batch)), float(row)) if batch > 0 else (0.0, float((seconds / rows).mean()))


def paces(make: Callable[..., torch.nn.Module], shape: tuple[int, int, int], counts: tuple[int, ...]) -> dict[str, Any]:
    """What steps, beginnings and judgements of a net take in the engine, by rows; nothing falls, so that rows stay.

    A step has its share of the engine's own books.
    """
    torch.manual_seed(0)
    net = make(channels=shape[0]).eval().requires_grad_(False)
    x = torch.rand(max(counts), *shape, generator=torch.Generator().manual_seed(0))
    y = engine.predict(net, x).argmax(1)
    found: dict[str, list[tuple[int, float]]] = {kind: [] for kind in (*ATTACKS, "begin", "judge")}
    for rows in counts:
        key = keys.fold(keys.root(0), torch.arange(rows))
        for name, attack in ATTACKS.items():
            best: dict[str, float] = {}
            for _ in range(2):
                meter = Meter(net)
                target = y[:rows, None].add(1).remainder(10) if name == "fab" else torch.full((rows, 1), -1)
                hunt = Hunt(attack, Linf(1e-5), target, meter, meter, rows, stage=0)
                began = time.process_time()
                list(hunt.events(Batch(x[:rows], y[:rows], key)))
                all_ = time.process_time() - began
                steps, begun, judged = (
                    [seconds for _, seconds in hunt.log[kind]] for kind in ("steps", "begun", "judged")
                )
                books = (all_ - sum(steps) - sum(begun) - sum(judged)) / len(steps)
                for kind, seconds in (
                    (name, statistics.median(steps) + books),
                    ("begin", begun[0]),
                    ("judge", judged[0]),
                ):
                    best[kind] = min(seconds, best.get(kind, seconds))
            for kind, seconds in best.items():
                found[kind].append((rows, seconds))
    lines = {kind: line(points) for kind, points in found.items()}
    return {
        "steps": {name: lines[name] for name in ATTACKS},
        "begin": lines["begin"],
        "judge": lines["judge"],
        "measured": found,
    }


def info() -> RunInfo:
    """A run of the size of CIFAR-10's images."""
    model = ModelInfo(
        name="", fingerprint="", classes=10, shape=(3, 32, 32), parameters=1, dtype="float32", device="cpu"
    )
    data = DataInfo(name="", fingerprint="", n=LINES, shape=(3, 32, 32), class_names=tuple("0123456789"))
    return RunInfo(
        name="", created="", plan="standard", stages=(), threat="linf", eps=0.1, curve=(0.1,), seed=0, model=model,
        data=data, versions={},
    )  # fmt: skip


def record(sample: int, *, fooled: bool) -> Record:
    return Record(
        id=sample, stage="apgd-ce", eps=0.1, label=3, fooled=fooled, predicted=5 if fooled else 3,
        margin=-0.1234567 if fooled else 0.1234567, value=-1.2345678, distance=0.0999999,
        steps=57, forwards=58, backwards=57,
    )  # fmt: skip


def stored(folder: Path) -> dict[str, float]:
    """Seconds of a record and of one with a point, of taking one over, of the files of a process, and of a flush."""
    store, shard = Store(folder, info()), Shard(folder, info(), 1)
    point = np.zeros((3, 32, 32), dtype=np.float32)
    plain, fooled = ([record(i + n * LINES, fooled=bool(n)) for i in range(LINES)] for n in (0, 1))
    found = {"record": fastest(lambda: [shard.append(each) for each in plain], 1) / LINES}
    name = str(shard.hand_over())
    found["take"] = fastest(lambda: store.take_over([name], []), 1) / LINES
    found["pointed"] = fastest(lambda: [shard.append(each, point) for each in fooled], 1) / LINES
    shard.close()
    shards, flushes = [], []
    for rank in range(2, 34):
        shard = Shard(folder, store.info, rank)
        shard.append(record(2 * LINES + rank, fooled=False))
        name = str(shard.hand_over())
        shards.append(fastest(lambda name=name: store.take_over([name], []), 1, time.monotonic))
        store.append(record(3 * LINES + rank, fooled=False))
        flushes.append(fastest(store._flush, 1, time.monotonic))
    store.close()
    return found | {"shard": min(shards), "flush": min(flushes)}


def written() -> dict[str, float]:
    """Writing records and points, taking them over, and reading the verdicts of others."""
    rounds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(stored(Path(folder)))
    best = {name: min(each[name] for each in rounds) for name in rounds[0]}
    told = pickle.dumps([Outcome.of(record(i, fooled=False)) for i in range(LINES)])

    def learn() -> None:
        known = Known()
        for outcome in pickle.loads(told):
            known.learn(outcome)

    return {
        "record": best["record"],
        "point": max(0.0, best["pointed"] - best["record"]),
        "take": best["take"],
        "shard": best["shard"],
        "flush": min(best["flush"], best["shard"]),
        "outcome": fastest(learn, 5) / LINES,
        "outcome_bytes": len(told) / LINES,
    }


MESSAGES = 200
"""To a counter, in a row: few, so that other programs leave some of the rows alone."""


def _asking(port: int, told: Any) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    took = fastest(lambda: [store.add("counter", 1) for _ in range(MESSAGES)], 50, time.monotonic)
    told.put(took / MESSAGES)


def counters() -> dict[str, float]:
    """Messages to torchrun's store: the time to an answer, and what the process that holds it spends on one."""
    spawn, found = multiprocessing.get_context("spawn"), []
    for _ in range(3):
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        told = spawn.Queue()
        other = spawn.Process(target=_asking, args=(store.port, told))
        other.start()
        began = time.process_time()
        found.append((told.get(), (time.process_time() - began) / (50 * MESSAGES)))
        other.join()
    ask, serve = map(min, zip(*found))
    return {"ask": ask, "serve": min(ask, serve)}


def _telling(rank: int, world: int, port: int, told: Any) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    store, found = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60)), {}
    for attempt in range(8):
        began, within = time.monotonic(), dist.PrefixStore(str(attempt), store)
        dist.init_process_group("gloo", store=within, rank=rank, world_size=world)
        found["met"] = min(time.monotonic() - began, found.get("met", torch.inf))
        for size in (1, 1 << 22):
            mine, told_by = (
                torch.zeros(size, dtype=torch.uint8),
                [torch.empty(size, dtype=torch.uint8) for _ in range(world)],
            )
            took = fastest(lambda a=told_by, m=mine: dist.all_gather(a, m), 30, time.monotonic)
            found[str(size)] = min(took, found.get(str(size), torch.inf))
        dist.destroy_process_group()
    if not rank:
        told.put(found)


def links() -> dict[str, float]:
    """Gathering by gloo between two processes, of a byte and of megabytes; and the time until they have met."""
    spawn, told = multiprocessing.get_context("spawn"), multiprocessing.get_context("spawn").Queue()
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [spawn.Process(target=_telling, args=(rank, 2, store.port, told)) for rank in range(2)]
    for each in ranks:
        each.start()
    found = told.get()
    for each in ranks:
        each.join()
    little, much = found["1"], found[str(1 << 22)]
    return {"link": little, "bandwidth": (1 << 22) / (much - little), "meet": found["met"]}


def imported() -> float:
    """CPU seconds of a process that has imported what an audit needs."""
    code = (
        "import time, holdfast.audit.run, holdfast.cli.audit, holdfast.cli.report, torch.distributed;"
        "print(time.process_time())"
    )
    command = [sys.executable, "-c", code]
    return min(float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3))


def once(log: dict[str, Any], samples: int) -> dict[str, float]:
    """What the log of a run by one process says about the work beside the searches; ``samples`` it had."""
    calls = log["calls"]
    past, concluded, page = (calls[name] for name in ("Session.past", "run.conclude", "report.write_report"))
    return {"past": past[1] / past[0] / samples, "finish": concluded[1] / samples, "page": page[1]}


def priced(log: dict[str, Any], samples: int) -> dict[str, Any]:
    """Everything that `fleet.costs.Costs.of` reads, and what it was made from."""
    nets = {name: paces(*net) for name, net in NETS.items()}
    beside = {**written(), **counters(), **links(), **once(log, samples), "importing": imported()}
    return {"nets": nets, "beside": beside}
