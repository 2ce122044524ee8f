"""Our PGD training beside the loop of the tutorials and MAIR's: the same net, images, steps and machine, in one run.

Seconds of one epoch on one thread, set-up included (ours builds its attack copy). What makes it fair:

- All start from the same weights and take the same number of attack steps, of the same length, on batches of the same size,
  with the same augmentation and SGD of the same rate and momentum (ours is Nesterov's). The tutorials' loop is in
  `peers/trainers.py`. MAIR trains through its own ``AT.fit`` with recording, saving and judging off. Both peers read
  through torch's DataLoader.
- Forwards and gradients are counted, image by image, at the last convolution wider than 1x1, in a round of their own.
- The timed rounds are interleaved (A B C, B C A, ...), and a ratio is formed within a round before the median is taken.
- What came out is judged by our PGD-10 on held-out images, outside the clock: after so little training that says no more
  than that nobody skipped the work.

``--time-to ACC`` measures instead how long training takes until PGD-10 leaves that share of held-out images right, on images
of one channel (MNIST) at Linf 0.3: our recipe ``mnist``, the tutorials' loop, and that loop with a radius that grows, which
the recipe has and without which small nets may never begin to learn; both by Adam at its usual rate of 0.001.

    python benchmarks/training_vs_peers.py [--data FILE] [--n 2000] [--rounds 3] [--net small_resnet] [--mair DIR]
    python benchmarks/training_vs_peers.py --data FILE --time-to 0.85 [--n 20000] [--epochs 8]

MAIR 1.0.3 is on no package index in this version: ``--mair`` names a checkout of github.com/Harry24k/MAIR. Without
``--data`` the images are random, which takes as long.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.attacks.pgd import PGD
from holdfast.data.load import load
from holdfast.models.load import build
from holdfast.objectives.adversarial import Adversarial
from holdfast.threats.linf import Linf
from holdfast.training.recipe import Recipe
from holdfast.training.recipes import recipe
from peers.measuring import machine, spread
from peers.trainers import Setting, Train, imported, mair, ours, textbook

CIFAR = Setting(eps=8 / 255, alpha=2 / 255, steps=10, batch=128, lr=0.02, shift=4, flip=True)
COUNTED = 8
"""The batch on which passes are counted; at least twice as many images there must be."""
MNIST = Setting(eps=0.3, alpha=0.15, steps=5, batch=128, lr=1e-3)


def pgd_training(setting: Setting) -> Recipe:
    """The recipe of `CIFAR` in our words."""
    return Recipe(
        Adversarial(PGD(steps=setting.steps, step_size=setting.alpha)),
        Linf(setting.eps),
        epochs=1,
        batch_size=setting.batch,
        lr=setting.lr,
        schedule="constant",
        optimiser="sgd",
        weight_decay=0.0,
        warm_up=0.0,
        shift=setting.shift,
        flip=setting.flip,
    )


@dataclass
class Images:
    """uint8 images (N,C,H,W) and labels (N,): ``x``, ``y`` to train on, ``held_x``, ``held_y`` to judge by."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def images(path: Path | None, n: int, held: int) -> Images:
    if path is None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(256, (n + held, 3, 32, 32), generator=generator, dtype=torch.uint8)
        y = torch.randint(10, (n + held,), generator=generator)
    else:
        batch = (source := load(path, limit=n + held)).take(source.ids)
        x, y = torch.from_numpy(batch.images), torch.from_numpy(batch.labels).long()
    return Images(x[held:], y[held:], x[:held], y[:held])


def robust(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """The share of images that PGD-10 leaves right."""
    return float((~PGD(steps=10)(net, x.float() / 255, y, threat=Linf(eps)).fooled).double().mean())


class Passes(TorchDispatchMode):
    """Counts images at the convolutions of one weight's shape: forwards, gradients of inputs, gradients of weights."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.forwards, self.inputs, self.weights = shape, 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and args[1].shape == self.shape:
            self.forwards += len(args[0])
        if func is torch.ops.aten.convolution_backward.default and args[2].shape == self.shape:
            asked = args[10]
            self.inputs += asked[0] * len(args[0])
            self.weights += asked[1] * len(args[0])
        return func(*args, **(kwargs or {}))


def counted(train: Train, net: nn.Module, data: Images, setting: Setting) -> dict[str, float]:
    """Passes per image of a step, at the last of the net's wider convolutions: what a second step adds to the first."""
    wide = [each for each in net.modules() if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1)]
    shape = wide[-1].weight.shape
    alike = sum(isinstance(each, nn.Conv2d) and each.weight.shape == shape for each in net.modules())
    found = []
    for size in (COUNTED, 2 * COUNTED):
        with Passes(shape) as passes:
            step = dataclasses.replace(setting, batch=COUNTED)
            next(train(copy.deepcopy(net), data.x[:size], data.y[:size], step))
        found.append(passes)
    one, two = found
    return {name: (vars(two)[name] - vars(one)[name]) / alike / COUNTED for name in ("forwards", "inputs", "weights")}


def timed(step: Callable[[], nn.Module]) -> tuple[nn.Module, float, float]:
    """What it gives, the CPU seconds and those on the wall."""
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        net = step()
    return net, time.process_time() - cpu, time.perf_counter() - wall


def epochs(net: nn.Module, programs: dict[str, Train], data: Images, setting: Setting, rounds: int) -> dict[str, Any]:
    """Seconds of one epoch by program, interleaved, with ratios."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": [], "robust": []} for name in programs}
    names = list(programs)
    passes = {name: counted(train, net, data, setting) for name, train in programs.items()}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            torch.manual_seed(number)
            train = partial(programs[name], copy.deepcopy(net), data.x, data.y, setting)
            trained, cpu, wall = timed(lambda train=train: next(train()))
            found = seconds[name]
            found["cpu"].append(cpu)
            found["wall"].append(wall)
            found["robust"].append(robust(trained.eval(), data.held_x, data.held_y, setting.eps))
    return {
        name: {
            "passes": passes[name],
            **{what: spread(values) for what, values in seconds[name].items()},
            **{
                f"{what} / ours": spread([a / b for a, b in zip(seconds[name][what], seconds["holdfast"][what])])
                for what in ("cpu", "wall")
            },
        }
        for name in names
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The table of `epochs`."""
    spent = f"{'CPU s':>8}{'wall s':>8}  {'x ours, CPU':22}{'x ours, wall':22}"
    yield f"{'':24}{spent}{'F':>5}{'B(x)':>6}{'B(w)':>6}{'robust %':>10}"
    for name, each in found.items():
        ratios = "".join(
            f"{'{median:.2f} ({min:.2f}..{max:.2f})'.format(**each[f'{what} / ours']):22}" for what in ("cpu", "wall")
        )
        passes = each["passes"]
        yield (
            f"{name:24}{each['cpu']['median']:8.2f}{each['wall']['median']:8.2f}  {ratios}{passes['forwards']:5.0f}"
            f"{passes['inputs']:6.0f}{passes['weights']:6.0f}{100 * each['robust']['median']:10.1f}"
        )


def time_to(
    accuracy: float, net: nn.Module, programs: dict[str, Train], data: Images, setting: Setting, most: int
) -> dict[str, Any]:
    """By program, the seconds until that robust accuracy, None if it was not reached, and what each epoch gave."""
    results = {}
    for name, train in programs.items():
        torch.manual_seed(0)
        running, cpu, wall, curve = train(copy.deepcopy(net), data.x, data.y, setting), 0.0, 0.0, []
        while len(curve) < most and not (curve and curve[-1]["robust"] >= accuracy):
            trained, more_cpu, more_wall = timed(lambda running=running: next(running))
            cpu, wall = cpu + more_cpu, wall + more_wall
            judged = copy.deepcopy(trained).eval()
            curve.append({"robust": robust(judged, data.held_x, data.held_y, setting.eps), "cpu": cpu, "wall": wall})
            print(f"{name:32} epoch {len(curve)}: {100 * curve[-1]['robust']:5.1f} %, {cpu:6.1f} s CPU", flush=True)
        reached = curve[-1]["robust"] >= accuracy
        results[name] = {"cpu": cpu if reached else None, "wall": wall if reached else None, "epochs": curve}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="images and labels, as for holdfast (default random images)")
    parser.add_argument("--n", type=int, default=2000, help="images of an epoch (default 2000)")
    parser.add_argument("--held", type=int, default=256, help="images to judge by (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--net", default=None, help="a registered net (default small_resnet; small_cnn with --time-to)")
    parser.add_argument("--mair", type=Path, metavar="DIR", help="a checkout of MAIR's repository")
    parser.add_argument("--bfloat16", action="store_true", help="also with the inner search in bfloat16")
    parser.add_argument("--time-to", type=float, metavar="ACC", help="measure the time to this robust accuracy")
    parser.add_argument("--epochs", type=int, default=8, help="with --time-to, the most epochs (default 8)")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    if given.n < 2 * COUNTED or min(given.rounds, given.held, given.epochs) < 1:
        parser.error(f"--n must be at least {2 * COUNTED}, and --held, --rounds and --epochs at least 1")
    if given.mair and not (given.mair / "mair" / "__init__.py").is_file():
        parser.error(f"--mair: no package mair in {given.mair}")
    torch.set_num_threads(1)
    where = machine()
    print(f"{where['cpu']}, 1 thread, torch {torch.__version__}", flush=True)
    data = images(given.data, given.n, given.held)
    name = given.net or ("small_resnet" if given.time_to is None else "small_cnn")
    net = build(name, shape=data.x.shape[1:], classes=10)
    if given.time_to is None:
        programs = {
            "holdfast": ours(pgd_training),
            "textbook": textbook(lambda each: torch.optim.SGD(each, lr=CIFAR.lr, momentum=0.9)),
        }
        if given.bfloat16:
            low = ours(lambda setting: dataclasses.replace(pgd_training(setting), precision="bfloat16"))
            programs["holdfast, bfloat16 search"] = low
        if given.mair:
            programs["MAIR 1.0.3"] = mair(imported(given.mair))
        found = epochs(net, programs, data, CIFAR, given.rounds)
        print(f"{name}, {given.n} images an epoch, PGD-{CIFAR.steps}, {given.rounds} rounds: median (min..max)")
        print("F, B(x), B(w): forwards, gradients of inputs and of weights, per image\n" + "\n".join(lines(found)))
    else:
        warm = int(0.4 * given.epochs * -(-given.n // MNIST.batch))  # as the recipe has it
        adam = partial(torch.optim.Adam, lr=MNIST.lr)
        programs = {
            "holdfast": ours(lambda setting: recipe("mnist", Linf(setting.eps), {"epochs": given.epochs})),
            "textbook": textbook(adam),
            "textbook, growing radius": textbook(adam, growing=warm),
        }
        found = time_to(given.time_to, net, programs, data, MNIST, given.epochs)
        for program, each in found.items():
            spent = f"after {each['cpu']:.0f} s CPU" if each["cpu"] else f"not in {given.epochs} epochs"
            print(f"{program}: {100 * given.time_to:g} % {spent}")
    if given.out:
        settings = {
            "net": name,
            "n": given.n,
            "rounds": given.rounds,
            "time_to": given.time_to,
            "data": bool(given.data),
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({"machine": where, "settings": settings, "results": found}, indent=1) + "\n")
        print(f"written: {given.out}")


if __name__ == "__main__":
    main()
