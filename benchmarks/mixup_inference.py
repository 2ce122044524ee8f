"""What mixup inference costs here and as published, on one thread: time, forwards at equal noise, forwards of Combined.

A small convolutional net is trained with mixup first, from a fixed seed. What is compared:

- time: MI-OL with 30 draws of one image after another, and of all at once, against what the published code does: one
  forward for the class and one for each of the 30 mixtures, with the mixture made just before. Both get the same net. The
  ways take turns, and ratios are formed within a round.
- noise: the variance of the averaged probabilities over fresh evaluations, summed over the classes, of independent draws
  without a control variate (as published) against stratified ones with it. The variance of independent draws falls as one
  over their number, so that the ratio is how many times more of them give the same noise. The interval is a bootstrap over
  images.
- Combined (5 and 15 draws): forwards for each clean image at the threshold that 10 % of other clean images pass, against
  the 21 of evaluating both branches always.
- early stop at 3.5 standard errors: forwards, and the share of images that get another answer than from all 30 draws.

    python benchmarks/mixup_inference.py [--data digits] [--epochs 8] [--rounds 7] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data.load import load
from holdfast.data.source import unit_images
from holdfast.defences.average import Average
from holdfast.defences.mixup_inference import MixedUp, MixupInference
from holdfast.foundation.calibration import threshold
from holdfast.foundation.stats import bootstrap
from holdfast.imaging.partners import independent
from holdfast.imaging.pool import Pool
from peers.measuring import machine

TRAINED, TESTED, PER_CLASS, TIMED, DRAWS = 6000, 400, 100, 24, 30


def net(channels: int, classes: int, width: int = 24) -> nn.Module:
    layers: list[nn.Module] = []
    for into, out, stride in (
        (channels, width, 1),
        (width, 2 * width, 2),
        (2 * width, 4 * width, 2),
        (4 * width, 4 * width, 1),
    ):
        layers += [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


def trained(x: Tensor, y: Tensor, classes: int, epochs: int) -> nn.Module:
    """Mixup with alpha 1, a share for each image, and a one-cycle rate."""
    torch.manual_seed(0)
    module = net(x.shape[1], classes)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(x) // 64)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            other, share = part[torch.randperm(len(part))], torch.rand(len(part))
            weight = share[:, None, None, None]
            logits = module(weight * x[part] + (1 - weight) * x[other])
            first, second = (F.cross_entropy(logits, y[each], reduction="none") for each in (part, other))
            loss = (share * first + (1 - share) * second).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return module.eval().requires_grad_(False)


@torch.no_grad()
def published(module: nn.Module, x: Tensor, pool: Pool, lam: float, num: int, key: Tensor) -> Tensor:
    """The rule as the published code runs it: one image at a time, one forward for each mixture."""
    answers = []
    for image, own in zip(x.split(1), key.split(1)):
        predicted = module(image).argmax(1)
        index = independent(pool, predicted, own, num, others=True)[0]
        total = torch.zeros(1, len(pool.counts))
        for place in index:
            total += module(lam * image + (1 - lam) * pool.take(place[None], image.dtype)).softmax(1)
        answers.append(total / num)
    return torch.cat(answers)


def timed(module: nn.Module, x: Tensor, pool: Pool, rounds: int) -> dict[str, Any]:
    wrapped = MixupInference(pool, ol=Average(0.5, DRAWS)).wrap(module)
    ids = torch.arange(len(x))
    ways = {
        "published": lambda: published(module, x, pool, 0.5, DRAWS, wrapped.key(x, ids)),
        "one by one": lambda: [wrapped(image, own) for image, own in zip(x.split(1), ids.split(1))],
        "all at once": lambda: wrapped(x, ids),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for turn in range(-1, rounds):
            names = list(ways)
            for name in names[turn % 3 :] + names[: turn % 3]:
                began = time.process_time()
                ways[name]()
                if turn >= 0:
                    seconds[name].append((time.process_time() - began) / len(x) * 1000)
    ratios = {
        name: [a / b for a, b in zip(seconds["published"], seconds[name])] for name in ("one by one", "all at once")
    }
    return {"milliseconds": {name: spread(each) for name, each in seconds.items()}, "faster": {
        name: spread(each) for name, each in ratios.items()
    }}  # fmt: skip


def noise(module: nn.Module, x: Tensor, pool: Pool, num: int, repeats: int) -> dict[str, Any]:
    found: dict[str, np.ndarray] = {}
    base = MixupInference(pool, ol=Average(0.5, num)).wrap(module)
    ids = torch.arange(len(x))
    for sampling in ("independent", "stratified"):
        for control in (False, True):
            wrapped = base.under(replace(base.defence, sampling=sampling, control_variate=control))
            with torch.no_grad():
                means = [wrapped.draws(x, wrapped.at(i).key(x, ids), others=True).mean(1) for i in range(repeats)]
            name = sampling + (", control variate" if control else "")
            found[name] = torch.stack(means).var(0).sum(1).double().numpy()
    plain = found["independent"]
    ratios = {}
    for name, each in found.items():
        both = np.arange(len(plain), dtype=float)
        ratio = bootstrap(
            both, lambda at, each=each: plain[at.astype(int)].mean() / each[at.astype(int)].mean(), seed=0
        )
        ratios[name] = {"variance": float(each.mean()), "times": ratio.value, "low": ratio.low, "high": ratio.high}
    return {"draws": num, "repeats": repeats, "images": len(x), "ways": ratios}


def lazy(module: nn.Module, x: Tensor, held: Tensor, pool: Pool) -> dict[str, Any]:
    defence = MixupInference(pool, Average(0.5, 5), Average(0.4, 15))
    wrapped = defence.wrap(module)
    with torch.no_grad():
        tau = threshold(answers(wrapped, held, "gap"), false_alarms=0.1).value
        wrapped = wrapped.under(replace(wrapped.defence, tau=tau))
        forwards = answers(wrapped, x, "forwards").astype(float)
    flagged = float((forwards > forwards.min()).mean())
    mean = bootstrap(forwards, seed=0)
    both = defence.forwards()
    return {"tau": tau, "flagged": flagged, "forwards": mean.value, "times": both / mean.value,
            "low": both / mean.high, "high": both / mean.low}  # fmt: skip


def stopped(module: nn.Module, x: Tensor, pool: Pool) -> dict[str, Any]:
    found = {}
    for name, averages in (("pl", {"pl": Average(0.5, 30), "ol": None}), ("ol", {"ol": Average(0.5, 30)})):
        full = MixupInference(pool, **averages).wrap(module)
        early = full.under(replace(full.defence, early_stop=3.5))
        with torch.no_grad():
            differ = answers(full, x, "logits").argmax(1) != answers(early, x, "logits").argmax(1)
            found[name] = {"forwards": float(answers(early, x, "forwards").mean()), "differ": float(differ.mean())}
    return found


def answers(wrapped: MixedUp, x: Tensor, what: str) -> np.ndarray:
    parts = zip(x.split(64), torch.arange(len(x)).split(64))
    return torch.cat([getattr(wrapped.answer(part, ids), what) for part, ids in parts]).numpy()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="digits", help="a name or path with parts train and test (default digits)")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default 8)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    if given.rounds < 1 or given.epochs < 1:
        parser.error("--rounds and --epochs must be at least 1")
    torch.set_num_threads(1)
    source, test = (
        load(given.data, split=split, limit=limit) for split, limit in (("train", TRAINED), ("test", TESTED))
    )
    (raw, labels), (images, truth) = source.take(source.ids), test.take(test.ids)
    x, y = torch.from_numpy(unit_images(raw)), torch.from_numpy(labels)
    tested = torch.from_numpy(unit_images(images))
    pool = Pool.of(raw, labels, source=source.name, per_class=PER_CLASS)
    pool.check_apart(images)
    module = trained(x, y, len(pool.counts), given.epochs)
    clean = float((module(tested).argmax(1).numpy() == truth).mean())
    where = machine()
    half = len(tested) // 2
    found = {
        "machine": where,
        "data": str(given.data),
        "pool": repr(pool),
        "clean_accuracy": clean,
        "time": timed(module, tested[:TIMED], pool, given.rounds),
        "noise": noise(module, tested[: min(100, half)], pool, 9, 30),
        "lazy": lazy(module, tested[:half], tested[half:], pool),
        "early_stop": stopped(module, tested[: min(100, half)], pool),
    }
    print(f"{where['cpu']}, 1 thread; {given.data}, {pool!r}, clean accuracy {clean:.1%}")
    for name, each in found["time"]["milliseconds"].items():
        ratio = found["time"]["faster"].get(name)
        times = f"  {ratio['median']:.2f} times faster ({ratio['min']:.2f}..{ratio['max']:.2f})" if ratio else ""
        print(
            f"time, {DRAWS} draws, {name:12} {each['median']:7.2f} ms/image ({each['min']:.2f}..{each['max']:.2f}){times}"
        )
    for name, each in found["noise"]["ways"].items():
        print(
            f"noise, 9 draws, {name:30} {each['variance']:.5f}  {each['times']:.2f} ({each['low']:.2f}..{each['high']:.2f})"
        )
    each = found["lazy"]
    print(f"Combined, {each['flagged']:.1%} flagged: {each['forwards']:.2f} forwards, {each['times']:.2f} times fewer"
          f" ({each['low']:.2f}..{each['high']:.2f})")  # fmt: skip
    for name, each in found["early_stop"].items():
        print(f"early stop, {name}: {each['forwards']:.1f} forwards of 31, {each['differ']:.1%} answer otherwise")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
