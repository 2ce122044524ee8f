"""An audit beside the bare forward and backward pass of the same net: eager, compiled, by CUDA graphs; float32 and bfloat16.

How near an audit comes to what the device allows. The limit is measured, not computed: forwards, and forwards with an input
gradient, of the search copy that the audit uses, in batches of as many images as searches run at once. An audit's share of
it is the time that its evaluations would have taken at that pace, over the time that it took from the first image on;
loading, the doctor and compiling are told apart as set-up. The settings take turns (A B C, B C A, ...), and the limit is
measured before and after every audit: their mean counts for it.

Time is wall time on an accelerator, and CPU time of one thread on a CPU, where other programs run. Without ``--weights`` the
net is untrained and the labels are its own answers: choose ``--eps`` so that a part of the images falls. Without ``--data``
the images are random.

    python benchmarks/accelerator.py --device cuda --data cifar10/test.parquet --weights NET.safetensors --n 10000
    python benchmarks/accelerator.py --device cpu --n 24 --slots 24 --plans fast --eps 0.2/255

Written to ``benchmarks/results/accelerator-DEVICE.json``, or to ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import holdfast
from holdfast.ascent.acceleration import Acceleration, Searched, accelerated
from holdfast.ascent.engine import predict
from holdfast.ascent.frozen import float32_kept, frozen
from holdfast.ascent.search_copy import search_copy
from holdfast.data.load import load as load_data
from holdfast.foundation import units
from holdfast.models.device import name_of
from holdfast.models.load import load
from holdfast.models.model import Model
from peers.measuring import machine, spread

PASSES = 5
"""How often a bare pass is repeated for one figure, of which the median counts."""


@dataclass(frozen=True)
class Task:
    """What is audited."""

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    slots: int

    def clock(self) -> float:
        """Seconds, after all that was begun on the device is done."""
        if self.model.device.type == "cpu":
            return time.process_time()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        else:
            torch.mps.synchronize()
        return time.perf_counter()


@dataclass
class Setting:
    """One way to run one plan, and what was measured of it, round by round."""

    plan: str
    asked: Acceleration
    copies: Searched
    setup: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pace: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    last: holdfast.Audit | None = None


@dataclass(frozen=True)
class Limit:
    """Seconds of one image, forward, and forward with an input gradient, in full batches."""

    forward: float
    gradient: float


def limit(task: Task, copies: Searched) -> Limit:
    x = task.x[torch.arange(task.slots) % len(task.x)].to(task.model.device)
    at = x.clone().requires_grad_()

    def gradient() -> None:
        torch.autograd.grad(copies.quick(at)[:, 0].sum(), at)

    def forward() -> None:
        predict(copies.quick, x)

    with frozen(task.model.module), float32_kept():
        return Limit(*(_median(task, work) / task.slots for work in (forward, gradient)))


def _median(task: Task, work: Callable[[], None]) -> float:
    work()
    seconds = []
    for _ in range(PASSES):
        began = task.clock()
        work()
        seconds.append(task.clock() - began)
    return sorted(seconds)[PASSES // 2]


def audited(task: Task, setting: Setting) -> None:
    """One audit between two measurements of the limit."""
    before = limit(task, setting.copies)
    first: list[float] = []
    began = task.clock()
    found = holdfast.audit(
        task.model,
        (task.x, task.y),
        threat=holdfast.Linf(task.eps),
        plan=setting.plan,
        slots=task.slots,
        precision=setting.asked.precision,
        compile=setting.asked.compile,
        watch=lambda step: None if first else first.append(task.clock()),
    )
    ended = task.clock()
    after = limit(task, setting.copies)
    seconds, made = ended - first[0], found.forwards + found.backwards + found.summary.discarded
    more = made / (found.forwards + found.backwards)  # what was discarded is made up like what counts
    forward, gradient = (before.forward + after.forward) / 2, (before.gradient + after.gradient) / 2
    bare = more * ((found.forwards - found.backwards) * forward + found.backwards * gradient)
    setting.setup.append(first[0] - began)
    setting.seconds.append(seconds)
    setting.pace.append(made / seconds)
    setting.share.append(bare / seconds)
    setting.limit.append(1 / gradient)
    setting.last = found


def settings(task: Task, plans: list[str]) -> list[Setting]:
    """Every plan in every way that the device has."""
    found = []
    copy = search_copy(task.model.module, task.x[:32].to(task.model.device)).module
    modes = ("none", "default", "graph") if task.model.device.type == "cuda" else ("none", "default")
    for precision, mode in itertools.product(("full", "bfloat16"), modes):
        asked = Acceleration(precision, mode)
        with frozen(task.model.module), float32_kept():
            size = min(task.slots, len(task.x))
            copies = accelerated(copy, task.x[:32].to(task.model.device), asked, size=size)
        for reason in copies.reasons:
            print(f"{precision}, compile {mode}: {reason}")
        found += [Setting(plan, asked, copies) for plan in plans] if copies.given == asked else []
    return sorted(found, key=lambda setting: plans.index(setting.plan))


def entry(setting: Setting, baseline: Setting) -> dict[str, Any]:
    last, wanted = setting.last, baseline.last
    assert last is not None and wanted is not None
    return {
        "plan": setting.plan,
        **dataclasses.asdict(setting.asked),
        "robust_accuracy": last.robust_accuracy,
        "judged_otherwise_than_plain_float32": int((last.robust != wanted.robust).sum()),
        "forwards": last.forwards,
        "backwards": last.backwards,
        "discarded": last.summary.discarded,
        "setup_seconds": spread(setting.setup),
        "seconds": spread(setting.seconds),
        "evaluations_per_second": spread(setting.pace),
        "limit_forward_and_gradient_per_second": spread(setting.limit),
        "share_of_limit": spread(setting.share),
        "notes": [note.saw for note in last.summary.notes if note.check == "compiled"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--net", default="preact_resnet18", help="a net of the house (default preact_resnet18)")
    parser.add_argument("--weights", type=Path, help="its weights; untrained unless given")
    parser.add_argument("--data", type=Path, help="CIFAR-10 test images; random ones unless given")
    parser.add_argument("--n", type=int, default=10_000, help="images (default 10,000)")
    parser.add_argument("--eps", default="8/255", help="radius in Linf (default 8/255)")
    parser.add_argument("--slots", type=int, default=512, help="searches at once (default 512)")
    parser.add_argument("--plans", nargs="+", default=["fast", "standard"], help="default: fast standard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--remark", default="", help="what else is to be known of the machine; written with the figures"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load(f"net:{given.net}", weights=given.weights, shape=(3, 32, 32), classes=10, device=given.device)
    if given.data:
        batch = (source := load_data(given.data, limit=given.n)).take(source.ids)
        x, y = torch.from_numpy(batch.images).float() / 255, torch.from_numpy(batch.labels).long()
    else:
        x, y = torch.rand(given.n, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None
    if given.weights is None or y is None:
        parts = [predict(model, part.to(model.device)).argmax(1).cpu() for part in x.split(given.slots)]
        y = torch.cat(parts)
    task = Task(model, x, y, units.parse(given.eps), given.slots)
    where = name_of(model.device)
    print(f"{where}; {given.net}, {len(x)} images, eps {given.eps}, {given.slots} at once")
    every = settings(task, given.plans)
    head = (
        f"{'plan':10}{'precision':10}{'compile':9}{'seconds':>10}{'evals/s':>10}"
        f"{'of the limit':>16}{'otherwise':>10}{'set-up':>8}"
    )
    for number in range(given.rounds):
        for setting in every[number % len(every) :] + every[: number % len(every)]:
            audited(task, setting)
            print(f"round {number + 1}: {setting.plan}, {setting.asked}: {setting.seconds[-1]:.1f} s", flush=True)
    baselines = {each.plan: each for each in reversed(every) if each.asked == Acceleration()}
    entries = [entry(setting, baselines[setting.plan]) for setting in every]
    print("\n" + head)
    for each in entries:
        seconds, pace, share = (each[key]["median"] for key in ("seconds", "evaluations_per_second", "share_of_limit"))
        least, most = (100 * each["share_of_limit"][key] for key in ("min", "max"))
        print(
            f"{each['plan']:10}{each['precision']:10}{each['compile']:9}{seconds:10.1f}{pace:10.0f}"
            f"{100 * share:5.0f} % ({least:.0f}-{most:.0f}){each['judged_otherwise_than_plain_float32']:10}"
            f"{each['setup_seconds']['median']:8.1f}"
        )
    told = {
        "machine": machine(),
        "device": where,
        "time": "CPU seconds of one thread" if model.device.type == "cpu" else "wall seconds",
        "remark": given.remark,
        "net": given.net,
        "weights": given.weights.name if given.weights else "untrained",
        "data": given.data.name if given.data else "random",
        **{key: getattr(given, key) for key in ("n", "eps", "slots", "rounds")},
        "settings": entries,
    }
    name = re.sub(r"[^A-Za-z0-9]+", "-", where if model.device.type != "cpu" else "cpu").strip("-").lower()
    out = given.out or Path(__file__).parent / "results" / f"accelerator-{name}.json"
    out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
