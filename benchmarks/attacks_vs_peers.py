"""PGD-40 and APGD-100 beside torchattacks and Foolbox: the same model, images and machine, in one run.

What is compared: robust accuracy, model evaluations, CPU seconds on one thread. What makes it fair:

- Every library gets the same images, radius, steps, step length (one 30th of the radius, Foolbox's default), one random
  start, and a model whose parameters need no gradients (Foolbox would otherwise compute those too). Our engine chooses
  its own batch; each peer is tried with all images at once and in batches of 128, and measured with the faster.
- Every library is called the way its users call it, and all of that is timed: our clean pass, search copy and final
  judgement, Foolbox's own check of success.
- The points of all libraries are judged here, outside the clock: inside ball and box, and a fresh prediction of the
  model. An image that is misclassified unchanged counts as not robust for everybody.
- Evaluations are counted at the first layer with weights of whatever copy of the model is run, image by image, in a
  round of its own that is not timed.
- The timed rounds are interleaved (A B C, B C A, ...), round i has seed i in every library, and a ratio is formed
  within a round before the median is taken.

The peers are optional: without them the script prints our own figures. Neither is a dependency of holdfast.
torchattacks 3.5.1 declares torchvision and an old requests and imports neither: install it without its dependencies.
Foolbox has no APGD.

    python benchmarks/attacks_vs_peers.py [--rounds 7] [--n 500] [--reference DIR] [--out results.json]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import holdfast
from holdfast import keys
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.data.digits import Digits
from holdfast.nets.small_cnn import SmallCNN
from holdfast.threats.linf import Linf

PEERS = {"torchattacks": "3.5.1", "foolbox": "3.3.4"}
"""Optional libraries and the versions that the script was written for."""
PGD_STEPS, APGD_STEPS, STEP_SHARE = 40, 100, 1 / 30
PEER_BATCH = 128
"""The batch that the peers are tried with besides all images at once: smaller activations, fewer cache misses."""
SLACK = 1e-6
"""What a point may lie outside the ball by rounding."""
RADII = {"mnist": 0.3, "cifar": 2 / 255}
"""The radius of a reference model by the first part of its name."""


@dataclass(frozen=True)
class Subject:
    """What is attacked: ``net`` in eval mode without parameter gradients, images (N, C, H, W) in [0, 1], labels."""

    name: str
    net: nn.Module
    x: Tensor
    y: Tensor
    eps: float


Find = Callable[[Subject, int], Tensor]
"""(subject, seed) -> the points that a library hands to its user, (N, C, H, W)."""


# The libraries, each called as its documentation does.


def ours(attack: str) -> Find:
    def find(subject: Subject, seed: int) -> Tensor:
        chosen = PGD(PGD_STEPS, step_size=subject.eps * STEP_SHARE) if attack == "PGD-40" else APGD(APGD_STEPS)
        return chosen(subject.net, subject.x, subject.y, threat=Linf(subject.eps), seed=seed).x

    return find


def torchattacks(attack: str) -> Find:
    library = importlib.import_module("torchattacks")

    def find(subject: Subject, seed: int) -> Tensor:
        eps = subject.eps
        torch.manual_seed(seed)
        if attack == "PGD-40":
            return library.PGD(subject.net, eps=eps, alpha=eps * STEP_SHARE, steps=PGD_STEPS)(subject.x, subject.y)
        return library.APGD(subject.net, norm="Linf", eps=eps, steps=APGD_STEPS, seed=seed, loss="ce")(
            subject.x, subject.y
        )

    return find


def foolbox(attack: str) -> Find | None:
    library = importlib.import_module("foolbox")
    if attack != "PGD-40":
        return None

    def find(subject: Subject, seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = library.PyTorchModel(subject.net, bounds=(0, 1), device=subject.x.device)
        search = library.attacks.LinfPGD(abs_stepsize=subject.eps * STEP_SHARE, steps=PGD_STEPS)
        _, clipped, _ = search(model, subject.x, subject.y, epsilons=subject.eps)
        return clipped

    return find


def libraries() -> tuple[dict[str, Callable[[str], Find | None]], list[str]]:
    """Those that are installed, and a line about each that is not."""
    found: dict[str, Callable[[str], Find | None]] = {"holdfast": ours}
    missing = []
    for name, adapter in (("torchattacks", torchattacks), ("foolbox", foolbox)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name}: not installed ({error}); needs {name} {PEERS[name]} or newer")
        else:
            found[name] = adapter
    return found, missing


# The models.


def digits(n: int) -> list[Subject]:
    """Two small nets on scikit-learn's digits: one trained on clean images, one on PGD's.

    The first at two radii: at the larger one every image falls, most of them early.
    """
    train, test = (_tensors(Digits.open(split=split)) for split in ("train", "test"))
    x, y = test[0][:n], test[1][:n]
    plain, robust = _trained(*train, eps=0.0, epochs=12), _trained(*train, eps=0.1, epochs=20)
    return [
        Subject("undefended, eps 0.2", plain, x, y, 0.2),
        Subject("undefended, eps 0.1", plain, x, y, 0.1),
        Subject("robust, eps 0.1", robust, x, y, 0.1),
    ]


def _tensors(source: Any) -> tuple[Tensor, Tensor]:
    batch = source.take(source.ids)
    return torch.from_numpy(batch.images).float() / 255, torch.from_numpy(batch.labels).long()


def _trained(x: Tensor, y: Tensor, *, eps: float, epochs: int) -> nn.Module:
    """A small CNN; with a radius, on the points of PGD-7, the radius growing over the first third of the epochs."""
    torch.manual_seed(0)
    net = SmallCNN()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        key = keys.fold(keys.fold(keys.root(0), epoch), torch.arange(len(x)))
        for chosen in key.sort().indices.split(64):
            images, labels = x[chosen], y[chosen]
            if eps:
                threat = Linf(eps * min(1.0, 3 * (epoch + 1) / epochs))
                rows = Rows(images, labels, torch.full_like(labels, -1), key[chosen], threat)
                inner, net = PGD(7), net.requires_grad_(False)
                state = inner.begin(net, rows)
                while not bool(state.done.all()):
                    state = inner.step(net, state)
                images, net = state.x.detach(), net.requires_grad_(True)
            optimiser.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def references(folder: Path, n: int) -> Iterator[Subject]:
    """The models of a folder: NAME.weights.safetensors (with mean and std) and NAME.images.safetensors."""
    for weights in sorted(folder.glob("*.weights.safetensors")):
        name = weights.name.removesuffix(".weights.safetensors")
        data = load_file(folder / f"{name}.images.safetensors")
        images, labels = data["images"][:n].float() / 255, data["labels"][:n].long()
        with safe_open(weights, "pt") as file:
            normalisation = file.metadata() or {}
        yield Subject(
            name, _reference_net(load_file(weights), normalisation), images, labels, RADII[name.split("-")[0]]
        )


def _reference_net(weights: dict[str, Tensor], normalisation: dict[str, str]) -> nn.Module:
    mean, std = ([float(v) for v in normalisation[k].strip("[]()").split(",")] for k in ("mean", "std"))
    channels, flat = weights["0.weight"].shape[1], weights["5.weight"].shape[1]
    net = SmallCNN(channels=channels, size=4 * round((flat / 32) ** 0.5), mean=mean, std=std)
    # The same layers in the same order: two convolutions, two linear ones.
    layers = [each for each in net.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    for layer, place in zip(layers, (0, 2, 5, 7)):
        layer.load_state_dict({"weight": weights[f"{place}.weight"], "bias": weights[f"{place}.bias"]})
    return net.eval().requires_grad_(False)


# The measurements.


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
    """One library's attack on one model; one list entry per round. ``batch``: None is all images, or our choice."""

    forwards: float
    backwards: float
    batch: int | None
    seconds: list[float] = field(default_factory=list)
    robust: list[Tensor] = field(default_factory=list)
    invalid: int = 0

    def accuracy(self) -> list[float]:
        return [float(robust.double().mean()) for robust in self.robust]


def judge(subject: Subject, points: Tensor) -> tuple[Tensor, int]:
    """Which images withstood, (N,) bool, and how many points break the rules; those count as failures of the attack."""
    change = (points - subject.x).abs().flatten(1).amax(1)
    outside = (points.flatten(1).amin(1) < 0) | (points.flatten(1).amax(1) > 1)
    valid = (change <= subject.eps + SLACK) & ~outside & points.flatten(1).isfinite().all(1)
    with torch.no_grad():
        fools = subject.net(points).argmax(1) != subject.y
        right = subject.net(subject.x).argmax(1) == subject.y
    return right & ~(fools & valid), int((~valid).sum())


def measure(subject: Subject, finds: dict[str, Find], rounds: int) -> dict[str, Result]:
    results = {}
    for name, find in finds.items():  # counts, and warms everything up
        with counted(subject.x.shape[1:]) as counts:
            run(find, subject, 0)
        batch = None if name == "holdfast" else _faster_batch(find, subject)
        results[name] = Result(counts.forwards / len(subject.x), counts.backwards / len(subject.x), batch)
    names = list(finds)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            points, seconds = run(finds[name], subject, number, batch=results[name].batch)
            results[name].seconds.append(seconds)
            robust, invalid = judge(subject, points)
            results[name].robust.append(robust)
            results[name].invalid += invalid
    return results


def _faster_batch(find: Find, subject: Subject) -> int | None:
    if len(subject.x) <= PEER_BATCH:
        return None
    tries = [(run(find, subject, 0, batch=batch)[1], batch) for _ in range(2) for batch in (None, PEER_BATCH)]
    return min(tries, key=lambda tried: tried[0])[1]


def run(find: Find, subject: Subject, seed: int, *, batch: int | None = None) -> tuple[Tensor, float]:
    """The points and the CPU seconds; None is one batch of all images."""
    parts = zip(subject.x.split(batch or len(subject.x)), subject.y.split(batch or len(subject.y)))
    split = [dataclasses.replace(subject, x=x, y=y) for x, y in parts]
    with contextlib.redirect_stdout(io.StringIO()):  # some peers print as they go
        began = time.process_time()
        points = [find(part, seed) for part in split]
        seconds = time.process_time() - began
    return torch.cat(points), seconds


def summary(subject: Subject, attack: str, results: dict[str, Result]) -> dict[str, Any]:
    """Everything measured, as plain data."""
    mine = results["holdfast"]
    peers = {name: result for name, result in results.items() if name != "holdfast"}
    entry: dict[str, Any] = {
        "model": subject.name,
        "attack": attack,
        "n": len(subject.x),
        "eps": subject.eps,
        "clean_accuracy": float((subject.net(subject.x).argmax(1) == subject.y).double().mean()),
        "libraries": {
            name: {
                "robust_accuracy": spread(result.accuracy()),
                "forwards_per_image": result.forwards,
                "backwards_per_image": result.backwards,
                "cpu_seconds": spread(result.seconds),
                "invalid_points": result.invalid,
                "batch": result.batch,
            }
            for name, result in results.items()
        },
        "against": {
            name: {
                "cpu_ratio": spread([a / b for a, b in zip(mine.seconds, result.seconds)]),
                # Images that one broke and the other did not, added up over the rounds.
                "only_peer_broke": sum(int((a & ~b).sum()) for a, b in zip(mine.robust, result.robust)),
                "only_holdfast_broke": sum(int((b & ~a).sum()) for a, b in zip(mine.robust, result.robust)),
            }
            for name, result in peers.items()
        },
    }
    if peers:
        fastest = [min(times) for times in zip(*(result.seconds for result in peers.values()))]
        entry["cpu_ratio_to_fastest_peer"] = spread([a / b for a, b in zip(mine.seconds, fastest)])
    return entry


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "holdfast": holdfast.__version__}
    for name in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
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
        "versions": versions,
    }


def lines(entry: dict[str, Any]) -> Iterator[str]:
    """The rows of the table for one model and attack."""
    for name, figures in entry["libraries"].items():
        robust, cpu = figures["robust_accuracy"], figures["cpu_seconds"]
        ratio = ""
        if name in entry["against"]:
            r = entry["against"][name]["cpu_ratio"]
            ratio = f"{r['median']:5.2f}  ({r['min']:.2f}..{r['max']:.2f})"
        invalid = f"  {figures['invalid_points']} points outside!" if figures["invalid_points"] else ""
        yield (
            f"{entry['model']:20} {entry['attack']:9} {name:13}"
            f"{100 * robust['median']:6.1f} ({100 * robust['min']:5.1f}..{100 * robust['max']:5.1f})"
            f"{figures['forwards_per_image']:8.1f}{figures['backwards_per_image']:8.1f}"
            f"{cpu['median']:9.3f}   {ratio}{invalid}"
        )
    if len(entry["against"]) > 1:
        r = entry["cpu_ratio_to_fastest_peer"]
        yield f"{'':30} {'fastest peer':60}   {r['median']:5.2f}  ({r['min']:.2f}..{r['max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--n", type=int, default=500, help="images of each model, at most (default 500)")
    parser.add_argument("--reference", type=Path, help="folder of reference models, attacked as well")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    if given.rounds < 1 or given.n < 1:
        parser.error("--rounds and --n must be at least 1")
    if given.reference and not list(given.reference.glob("*.weights.safetensors")):
        parser.error(f"--reference: no *.weights.safetensors in {given.reference}")
    torch.set_num_threads(1)
    found, missing = libraries()
    where = machine()
    print(f"{where['cpu']}, 1 thread; " + ", ".join(f"{k} {v}" for k, v in where["versions"].items()))
    for line in missing:
        print(line)
    print(f"n <= {given.n}, {given.rounds} rounds: median (min..max); f, b = forwards and input gradients per image;")
    print("ratio = holdfast's CPU seconds / the peer's, formed within each round; fastest: to the faster one in each")
    print(f"\n{'model':20} {'attack':9} {'library':13}{'robust %':>22}{'f':>8}{'b':>8}{'CPU s':>9}   ratio", flush=True)
    entries = []
    subjects = [*digits(given.n), *(references(given.reference, given.n) if given.reference else ())]
    for subject in subjects:
        for attack in ("PGD-40", "APGD-100"):
            adapted = {name: adapter(attack) for name, adapter in found.items()}
            entry = summary(subject, attack, measure(subject, {k: v for k, v in adapted.items() if v}, given.rounds))
            entries.append(entry)
            print("\n".join(lines(entry)), flush=True)
    if given.out:
        settings = {"rounds": given.rounds, "n": given.n, "step_share": STEP_SHARE, "restarts": 1}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": where, "missing": missing, "settings": settings, "results": entries}, indent=1)
        given.out.write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten: {given.out}")


if __name__ == "__main__":
    main()
