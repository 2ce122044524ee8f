"""An audit on 1 to 1,024 devices: costs by the piece, measured; where the time goes, simulated; 1 and 2 processes, run.

- ``--costs`` measures steps of two nets as functions of the rows in flight, records, messages to the counters, gathering,
  taking over, start and end, on one thread (CPU seconds where that is what is spent, the fastest of some repeats).
- ``--simulate`` makes an audit by ``fast`` and one by ``standard`` of an adversarially trained net on digits (or takes those
  of ``--run``), draws 10,000 and 50,000 samples from them with everything that happened to each, and replays them on up to
  1,024 devices: the engine's slots, the library's own division of a stage, one store, one first process. Pictures, too.
- ``--measure`` runs audits by 1 and by 2 processes in turn, and holds counts and seconds against the simulation.
- ``--check`` holds the simulated slots against the engine, and the simulation against laws that it has to keep.

    python benchmarks/scaling.py --costs | --simulate | --measure | --check [--work DIR] [--run DIR ...] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from fleet.costs import Costs
from fleet.devices import PARTS, Rule, audit, by_portion, chunks, enough, guided, halved, least, speeds
from fleet.drawing import breakdown, scaling
from fleet.laws import LAWS
from fleet.pricing import priced
from fleet.recorded import Run, launched, replayed
from fleet.trace import Trace, read, resampled
from fleet.training import parallel
from peers.measuring import machine
from peers.subjects import digits

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "images" / "scaling"
WORLDS = tuple(2**k for k in range(11))
SAMPLES = 10_000, 50_000
RESNET, CNN = "preact_resnet18, 3x32x32", "small_cnn, 1x32x32"
APART = 10.0
"""How many times as long a message takes between hosts as on this one. Assumed."""
ACCELERATOR = {"row": 64e-6, "batch": 5e-3}
"""Seconds of a gradient step of an accelerator, for a row and for a batch. Assumed."""
SPREAD = {"jitter": 0.1, "straggler": 0.5}


def net(work: Path) -> Path:
    """The weights of the small net that is audited, trained by PGD on the first call."""
    path = work / "robust.safetensors"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        save_file(digits(1)[2].net.state_dict(), path)
    return path


def request(work: Path, plan: str, limit: int, *more: str) -> list[str]:
    """What is audited: the options of ``holdfast audit``."""
    weights = ["--weights", str(net(work))]
    return [
        "--model",
        "net:small_cnn",
        *weights,
        "--data",
        "digits",
        "--eps",
        "0.1",
        "--plan",
        plan,
        "--limit",
        str(limit),
        *more,
    ]


def done(work: Path, plan: str) -> Run:
    """The audit of 400 digits by one process that the simulation begins from, made on the first call."""
    folder = work / plan
    if not (folder / "summary.json").exists():
        return launched(folder, 1, request(work, plan, 400))
    return Run(read(folder), [json.loads((work / f"{plan}.log.0.json").read_text())], 0.0)


def described(trace: Trace) -> dict[str, Any]:
    return {
        "samples": trace.samples,
        "stages": {
            f"{task.name} at {task.eps:g}": {"samples": len(task), "row_steps": task.rows} for task in trace.tasks
        },
    }


def devices(found: dict[str, Any]) -> dict[str, tuple[Costs, int]]:
    """Kinds of devices, with the slots that the engine takes for their images."""
    core = Costs.of(found, RESNET)
    return {"core": (core, 256), "accelerator": (core.on(**ACCELERATOR), 256)}


def line(trace: Trace, costs: Costs, slots: int, speed: np.ndarray, rule: Rule = Rule()) -> dict[str, Any]:  # noqa: B008
    """One point of a curve."""
    world = len(speed)
    spent = audit(trace, costs.apart(APART), speed, slots, rule)
    once = costs.start(trace, world) + costs.end(trace)
    return {
        "devices": world,
        "capacity": float(speed.sum()),
        "seconds": spent.wall,
        "searching": spent.wall - once,
        "least": least(trace, costs, world, slots),
        "batches": spent.counts["steps"],
        "row_steps": spent.counts["rows steps"],
        "messages": spent.counts["messages"],
        "shares": spent.shares(),
    }


def curves(traces: dict[str, Trace], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for plan, trace in traces.items():
        for samples in SAMPLES:
            many = resampled(trace, samples)
            for device, (costs, slots) in devices(found).items():
                for spread in ({}, SPREAD) if samples == SAMPLES[0] else (SPREAD,):
                    points = [line(many, costs, slots, speeds(world, **spread)) for world in WORLDS]
                    one = line(many, costs, slots, np.ones(1))["seconds"]
                    for point in points:
                        point["efficiency"] = one / (point["capacity"] * point["seconds"])
                    entry = {"plan": plan, "samples": samples, "device": device, "spread": spread, "points": points}
                    told = "  ".join(f"{point['devices']}: {point['efficiency']:.0%}" for point in points)
                    print(
                        f"{plan:9}{samples:7,} {device:12}{'spread' if spread else 'equal':7} {one:10.1f} s  {told}",
                        flush=True,
                    )
                    yield entry


def rules(costs: Costs) -> dict[str, Rule]:
    """Other ways to divide the work, and the library's.

    Slots are kept empty on purpose only where those left are so many that a batch by itself costs an eighth of its rows.
    """
    pace = costs.steps["apgd"]
    least = ceil(8 * pace.batch / pace.row)
    return {
        "as it is": Rule(),
        "chunks of 1": Rule(chunks(1)),
        "chunks of 32": Rule(chunks(32)),
        "guided chunks": Rule(guided),
        "half the searches in slots": Rule(slots=halved(least)),
        "by portion": Rule(enough, order=by_portion),
        "by portion, half the searches in slots": Rule(enough, halved(least), by_portion),
        "one flush for a stage": Rule(flushes=False),
        "taken over at the end": Rule(merging=False),
        "one message for each judgement": Rule(tallies=False),
        "no barrier": Rule(barrier=False, merging=False),
    }


def compared(traces: dict[str, Trace], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How many times as fast the searches are done if the work is divided otherwise."""
    for plan, trace in traces.items():
        many = resampled(trace, 10_000)
        for device, (costs, slots) in devices(found).items():
            for world in (4, 16, 64, 256, 1024):
                took = {
                    name: line(many, costs, slots, speeds(world, **SPREAD), rule) for name, rule in rules(costs).items()
                }
                base = took["as it is"]["searching"]
                ratios = {name: base / each["searching"] for name, each in took.items()}
                told = "  ".join(f"{name}: {ratio:.3f}" for name, ratio in ratios.items())
                print(f"{plan:9}{device:12}{world:5}  {base:9.1f} s  {told}", flush=True)
                yield {"plan": plan, "device": device, "devices": world, "searching": base, "times_as_fast": ratios}


def simulate(work: Path, runs: list[Path]) -> None:
    found = json.loads((RESULTS / "scaling_costs.json").read_text())
    traces = {run.name: read(run) for run in runs} or {plan: done(work, plan).trace for plan in ("fast", "standard")}
    report = {
        "assumed": {"apart": APART, "accelerator": ACCELERATOR, "spread": SPREAD},
        "traces": {plan: described(trace) for plan, trace in traces.items()},
        "curves": list(curves(traces, found)),
        "rules": list(compared(traces, found)),
        "training": parallel(devices(found)),
    }
    if runs:
        return
    write("scaling_simulated", report)
    PICTURES.mkdir(parents=True, exist_ok=True)
    scaling(report["curves"], PICTURES / "curves.png")
    breakdown(report["curves"], PARTS, PICTURES / "breakdown.png")


SUBJECTS = {"standard": ("standard", 150), "fast, 64 slots": ("fast", 400, "--slots", "64")}
"""What is run by 1 and by 2 processes: a plan, digits, more options. The second leaves chunks to be taken."""


def measure(work: Path, rounds: int) -> None:
    """1 and 2 processes in turn; then the costs, on the same machine in the same state."""
    shutil.rmtree(work / "measured", ignore_errors=True)
    (work / "measured").mkdir(parents=True)
    ran: dict[str, dict[int, list[Run]]] = {name: {1: [], 2: []} for name in SUBJECTS}
    for number in range(rounds):
        for name, (plan, limit, *more) in SUBJECTS.items():
            for world in (1, 2):
                folder = work / "measured" / f"{plan}-{world}-{number}"
                ran[name][world].append(launched(folder, world, request(work, plan, limit, *more)))
    one = ran["standard"][1][0]
    costs = Costs.of(priced(one.logs[0], one.trace.samples), CNN)
    write("scaling", {"rounds": rounds, "subjects": [against(name, runs, costs) for name, runs in ran.items()]})


def against(name: str, runs: dict[int, list[Run]], costs: Costs) -> dict[str, Any]:
    """Counts and seconds of real runs, and of their simulation."""
    entry: dict[str, Any] = {"subject": name, "request": SUBJECTS[name], "processes": []}
    for world, each in runs.items():
        trace = each[0].trace
        spent = audit(trace, costs, np.ones(world), each[0].logs[0]["hunts"][0]["slots"])
        simulated = spent.wall - costs.start(trace, world) - costs.end(trace)
        walls, searching = [run.wall for run in each], [run.searching for run in each]
        stages = [stage for run in each for stage in replayed(run)]
        differing = [stage for stage in stages if stage["real"] != stage["simulated"]]
        rows = [sum(stage[which]["rows steps"] for stage in stages) for which in ("real", "simulated")]
        entry["processes"].append(
            {
                "world": world,
                "wall": walls,
                "searching": searching,
                "cpu": [sum(log["cpu"] for log in run.logs) for run in each],
                "simulated_searching": simulated,
                "measured_over_simulated": statistics.median(searching) / simulated,
                "stages": len(stages),
                "counted_alike": len(stages) - len(differing),
                "row_steps": rows,
                "differing": differing,
            }
        )
        print(
            f"{name:16}{world} processes: wall {min(walls):.1f}..{max(walls):.1f} s, searching {min(searching):.1f}.."
            f"{max(searching):.1f} s, simulated {simulated:.1f} s; {len(stages) - len(differing)} of {len(stages)} stages "
            f"of a process counted alike, row-steps {rows[0]:,} and {rows[1]:,}",
            flush=True,
        )
    one, two = entry["processes"]
    for kind in ("wall", "searching"):
        ratios = [a / b for a, b in zip(one[kind], two[kind])]
        entry[f"{kind}_times_as_fast"] = {"median": statistics.median(ratios), "rounds": ratios}
        print(f"{name:16}2 processes: {statistics.median(ratios):.2f} times as fast ({kind})", flush=True)
    return entry


def write(name: str, found: dict[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"machine": machine(), **found}, indent=1) + "\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, about in (
        ("costs", "measure what a piece of work costs (2 minutes)"),
        ("simulate", "1 to 1,024 devices, and the pictures (8 minutes, the audits that it begins from included)"),
        ("measure", "run audits by 1 and by 2 processes (5 minutes on two idle cores)"),
        ("check", "hold the simulation against the engine and its laws (10 seconds)"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=about)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/scaling"), help="where audits are kept (default runs/scaling)"
    )
    parser.add_argument(
        "--run", type=Path, nargs="+", default=[], help="simulate these finished runs instead; writes nothing"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of --measure (default 3)")
    given = parser.parse_args()
    if given.rounds < 1 or not (given.costs or given.simulate or given.measure or given.check):
        parser.error("give --costs, --simulate, --measure or --check, and --rounds of at least 1")
    torch.set_num_threads(1)
    if given.check:
        for law in LAWS:
            law()
            print(f"holds: {law.__name__.replace('_', ' ')}")
    if given.costs:
        log = done(given.work, "standard")
        write("scaling_costs", priced(log.logs[0], log.trace.samples))
    if given.simulate:
        simulate(given.work, given.run)
    if given.measure:
        measure(given.work, given.rounds)


if __name__ == "__main__":
    main()
