"""What is measured of an attack, and how two of them are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import holdfast
from holdfast.threats.threat import Threat
from peers.libraries import Find, ours, theirs, versions
from peers.pairings import Pairing
from peers.subjects import Subject

PEER_BATCH = 128
"""The batch that the peers are tried with besides all images at once: smaller activations, fewer cache misses."""
SLACK = 1e-6
"""What a point may lie outside the ball by rounding."""


@dataclass
class Counts:
    """Evaluations of one image."""

    forwards: int = 0
    backwards: int = 0

    def gradient(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@contextlib.contextmanager
def counted(shape: torch.Size) -> Iterator[Counts]:
    """Counts every image of that (C, H, W) shape that enters a layer with weights, in whichever copy of the model.

    That is the first layer of the nets here, also where a search copy has put a layer of its own in its place.

    A hook for all modules instead of a wrapper around one: a wrapper would keep our engine from copying the model, and
    so would change what is counted.
    """
    counts = Counts()

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        weighted = next(module.parameters(recurse=False), None) is not None
        if weighted and inputs and isinstance(inputs[0], Tensor) and inputs[0].shape[1:] == shape:
            counts.forwards += len(inputs[0])
            if inputs[0].requires_grad:
                inputs[0].register_hook(counts.gradient)

    handle = nn.modules.module.register_module_forward_pre_hook(enter)
    try:
        yield counts
    finally:
        handle.remove()


@dataclass
class Result:
    """One library's attack on one model; one list entry per round. ``batch``: None is all images, or our choice.

    ``far``, (N,) each: the distance at which an image was fooled, 0 if it was misclassified unchanged, inf if it withstood.
    """

    find: Find
    forwards: float
    backwards: float
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)
    far: list[Tensor] = field(default_factory=list)
    invalid: int = 0

    @property
    def evaluations(self) -> float:
        return self.forwards + self.backwards

    def strength(self, *, minimal: bool) -> list[float]:
        """Of each round the median distance, or the share of images that withstood; smaller is stronger."""
        if minimal:
            return [float(far[far > 0].median()) for far in self.far]
        return [float(far.isinf().double().mean()) for far in self.far]


def judge(subject: Subject, threat: Threat, points: Tensor) -> tuple[Tensor, int]:
    """`Result.far`, and how many points break the rules; those count as failures of the attack."""
    change = torch.zeros(len(points)) if threat.parametric else threat.distance(subject.x, points)
    outside = (points.flatten(1).amin(1) < -SLACK) | (points.flatten(1).amax(1) > 1 + SLACK)
    valid = (change <= threat.eps * (1 + SLACK) + SLACK) & ~outside & points.flatten(1).isfinite().all(1)
    with torch.no_grad():
        fools = subject.net(points).argmax(1) != subject.y
        right = subject.net(subject.x).argmax(1) == subject.y
    far = torch.where(fools & valid, change.clamp_min(torch.finfo(change.dtype).tiny), torch.inf)
    return torch.where(right, far, 0.0), int((~valid).sum())


def measure(subject: Subject, pairing: Pairing, libraries: list[str], rounds: int) -> dict[str, Any] | None:
    """Everything measured of one pairing on one model, as plain data; None if no library is there to compare with."""
    chosen = [name for name in pairing.peers if name in libraries]
    subject = dataclasses.replace(subject, x=subject.x[: pairing.n], y=subject.y[: pairing.n])
    threat = pairing.threat(subject)
    results: dict[str, Result] = {}
    failed: dict[str, str] = {}
    for name in chosen:
        find = theirs(name, pairing.peers[name], threat, minimal=pairing.minimal)
        try:
            results[name] = _counted(find, subject)
            results[name].batch = _faster_batch(find, subject)
        except Exception as error:  # a foreign attack may raise anything; that is a result, too
            failed[name] = f"{type(error).__name__}: {error}"
    if pairing.matched and not results:  # no budget to match
        nothing = {"model": subject.name, "attack": pairing.name, "libraries": {}, "against": {}, "measure": "none"}
        return {**nothing, "failed": failed} if failed else None
    queries = max((result.forwards for result in results.values()), default=0.0) if pairing.matched else None
    attack = pairing.ours(subject, queries)
    results = {"holdfast": _counted(ours(attack, threat), subject), **results}
    names = list(results)
    for number in range(min(rounds, pairing.rounds)):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            result = results[name]
            points, seconds = run(result.find, subject, number, batch=result.batch)
            far, invalid = judge(subject, threat, points)
            result.seconds.append(seconds)
            result.far.append(far)
            result.invalid += invalid
    return _summary(subject, pairing, repr(attack), threat, results, failed)


def _counted(find: Find, subject: Subject) -> Result:
    """The evaluations of one run, which also warms everything up."""
    with counted(subject.x.shape[1:]) as counts:
        run(find, subject, 0)
    return Result(find, counts.forwards / len(subject.x), counts.backwards / len(subject.x))


def _faster_batch(find: Find, subject: Subject) -> int | None:
    if len(subject.x) <= PEER_BATCH:
        return None
    tries = [(run(find, subject, 0, batch=batch)[1], batch) for _ in range(2) for batch in (None, PEER_BATCH)]
    return min(tries, key=lambda tried: tried[0])[1]


def run(find: Find, subject: Subject, seed: int, *, batch: int | None = None) -> tuple[Tensor, float]:
    """The points and the CPU seconds; None is one batch of all images."""
    parts = zip(subject.x.split(batch or len(subject.x)), subject.y.split(batch or len(subject.y)))
    split = [dataclasses.replace(subject, x=x, y=y) for x, y in parts]
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):  # some peers print as they go
        began = time.process_time()
        points = [find(part, seed) for part in split]
        seconds = time.process_time() - began
    return torch.cat(points), seconds


def _summary(
    subject: Subject, pairing: Pairing, attack: str, threat: Threat, results: dict[str, Result], failed: dict[str, str]
) -> dict[str, Any]:
    mine = results["holdfast"]
    peers = {name: result for name, result in results.items() if name != "holdfast"}
    measure = "median_distance" if pairing.minimal else "robust_accuracy"
    entry: dict[str, Any] = {
        "model": subject.name,
        "attack": pairing.name,
        "ours": attack,
        "n": len(subject.x),
        "threat": repr(threat),
        "clean_accuracy": float((subject.net(subject.x).argmax(1) == subject.y).double().mean()),
        "measure": measure,
        "libraries": {
            name: {
                measure: spread(result.strength(minimal=pairing.minimal)),
                "forwards_per_image": result.forwards,
                "backwards_per_image": result.backwards,
                "cpu_seconds": spread(result.seconds),
                "invalid_points": result.invalid,
                "batch": result.batch,
            }
            for name, result in results.items()
        },
        "failed": failed,
        "against": {name: _against(mine, result, minimal=pairing.minimal) for name, result in peers.items()},
    }
    if peers:
        fastest = [min(times) for times in zip(*(result.seconds for result in peers.values()))]
        entry["cpu_ratio_to_fastest_peer"] = spread([a / b for a, b in zip(mine.seconds, fastest)])
    return entry


def _against(mine: Result, peer: Result, *, minimal: bool) -> dict[str, Any]:
    pairs = list(zip(mine.strength(minimal=minimal), peer.strength(minimal=minimal)))
    # A relative difference of distances, an absolute one of accuracies; where both found nothing, none.
    differences = [(a / b - 1 if minimal else a - b) if a != b else 0.0 for a, b in pairs]
    ratio = [a / b for a, b in zip(mine.seconds, peer.seconds)]
    return {
        "strength_difference": spread(differences),
        "cpu_ratio": spread(ratio),
        "cpu_ratio_per_evaluation": spread([r * peer.evaluations / mine.evaluations for r in ratio]),
        # Images that one broke and the other did not, added up over the rounds.
        "only_peer_broke": sum(int((a.isinf() & ~b.isinf()).sum()) for a, b in zip(mine.far, peer.far)),
        "only_holdfast_broke": sum(int((b.isinf() & ~a.isinf()).sum()) for a, b in zip(mine.far, peer.far)),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Median, extremes and all values; what is not finite becomes None, which JSON knows."""

    def plain(value: float) -> float | None:
        return float(f"{value:.6g}") if math.isfinite(value) else None

    return {
        "median": plain(statistics.median(values)),
        "min": plain(min(values)),
        "max": plain(max(values)),
        "rounds": [plain(value) for value in values],
    }


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    software = {"python": platform.python_version(), "torch": torch.__version__, "holdfast": holdfast.__version__}
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": software | versions(),
    }
