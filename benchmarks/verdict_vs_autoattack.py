"""The plan ``fast`` beside AutoAttack: verdicts sample by sample, evaluations and CPU seconds, in one run.

Three ways to AutoAttack's verdict are put beside ours, as far as they are there:

- ``pyautoattack``, a packaged port of the authors' code (PyPI), run here on the same images;
- the authors' own verdicts, where the reference folder has a ``NAME.autoattack.json``: their counts, their CPU seconds;
- our own plan ``standard``, which is AutoAttack's protocol.

Every verdict is judged here by a fresh forward of the model on the points that are handed over. Evaluations are forwards and
input gradients of single images, counted at the first layer with weights, everything included: the clean pass, the probes
of the gradients, searches that ran ahead in vain, the final judgement. CPU seconds are of one thread; every library judges
two images of another seed first, so that imports and what is built at the first call count for none of them.

    python benchmarks/verdict_vs_autoattack.py --reference DIR [--n 200] [--seeds 0 1] [--slow] [--out results.json]

``--slow`` runs ``standard`` and pyautoattack too (minutes to hours a model); without it only ``fast`` runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import holdfast
from attacks_vs_peers import RADII, SLACK, counted, digits, machine, references
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

L2_RADII = {"mnist-pgd-madry": 1.5}
"""Reference models that are judged in L2 as well: one whose Linf training masks its gradients there."""


@dataclass(frozen=True)
class Question:
    """A model, its images and the set; ``published``: the authors' own verdict, where there is one."""

    name: str
    net: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    published: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """Which samples stand, (N,) bool, and what it took."""

    by: str
    robust: Tensor
    forwards: int
    backwards: int
    seconds: float

    @property
    def evaluations(self) -> int:
        return self.forwards + self.backwards


def questions(folder: Path | None, n: int) -> Iterator[Question]:
    """Two nets on scikit-learn's digits, and the reference models with their published verdicts."""
    for subject in digits(n)[1:]:
        yield Question(subject.name, subject.net, subject.x, subject.y, Linf(subject.eps))
    for subject in references(folder, n) if folder else ():
        file = folder / f"{subject.name}.autoattack.json" if folder else Path()
        published = json.loads(file.read_text()) if file.is_file() and n == 200 else None
        eps = RADII[subject.name.split("-")[0]]
        yield Question(subject.name, subject.net, subject.x, subject.y, Linf(eps), published)
        if subject.name in L2_RADII:
            yield Question(f"{subject.name}, L2", subject.net, subject.x, subject.y, L2(L2_RADII[subject.name]))


def answered(by: str, question: Question, points: Callable[[], Tensor]) -> Answer:
    """The verdict on the points that a library hands over, judged afresh; an image outside the set does not count."""
    with counted(question.x.shape[1:]) as counts, contextlib.redirect_stdout(io.StringIO()):
        began = time.process_time()
        x = points()
        seconds = time.process_time() - began
    with torch.no_grad():
        right = question.net(question.x).argmax(1) == question.y
        fools = question.net(x).argmax(1) != question.y
    inside = question.threat.distance(question.x, x) <= question.threat.eps * (1 + SLACK) + SLACK
    return Answer(by, right & ~(fools & inside), counts.forwards, counts.backwards, seconds)


def plan(name: str, question: Question, seed: int) -> Answer:
    def points() -> Tensor:
        pair = (question.x, question.y)
        return holdfast.audit(question.net, pair, threat=question.threat, plan=name, seed=seed).points

    return answered(f"{name}, seed {seed}", question, points)


def packaged(question: Question) -> Answer:
    from pyautoattack import AutoAttack

    norm = {"linf": "Linf", "l2": "L2"}[question.threat.name]

    def points() -> Tensor:
        attack = AutoAttack(question.net, norm=norm, eps=question.threat.eps, seed=0)
        return attack.run_standard_evaluation(question.x, question.y)[0]

    return answered("pyautoattack", question, points)


def published(question: Question) -> Answer:
    """The authors' code, as recorded in the reference folder."""
    told = question.published
    assert told is not None
    stages = told["stages"].values()
    return Answer(
        "authors' AutoAttack",
        torch.tensor([by == "" for by in told["broken_by"]]),
        len(question.x) + sum(stage["forwards"] for stage in stages),
        sum(stage["backwards"] for stage in stages),
        sum(stage["cpu_seconds"] for stage in stages),
    )


def compared(ours: Answer, theirs: Answer) -> dict[str, Any]:
    """``ours`` against an AutoAttack; ratios are theirs over ours."""
    return {
        "ours": ours.by,
        "theirs": theirs.by,
        "evaluations_ratio": theirs.evaluations / ours.evaluations,
        "cpu_ratio": theirs.seconds / ours.seconds,
        "only_theirs_broke": int((ours.robust & ~theirs.robust).sum()),
        "only_ours_broke": int((theirs.robust & ~ours.robust).sum()),
    }


def report(question: Question, answers: list[Answer]) -> dict[str, Any]:
    """Prints what was measured on one model, and returns it as plain data."""
    entry: dict[str, Any] = {
        "model": question.name,
        "n": len(question.x),
        "threat": question.threat.name,
        "eps": question.threat.eps,
        "answers": [],
        "comparisons": [],
    }
    for answer in answers:
        share = float(answer.robust.double().mean())
        entry["answers"].append(
            {
                "by": answer.by,
                "robust_accuracy": share,
                "forwards": answer.forwards,
                "backwards": answer.backwards,
                "cpu_seconds": answer.seconds,
            }
        )
        print(
            f"{question.name:24}{answer.by:22}{100 * share:7.1f}{answer.forwards:11,}{answer.backwards:10,}"
            f"{answer.seconds:9.1f}",
            flush=True,
        )
    rivals = [answer for answer in answers if not answer.by.startswith("fast")]
    for ours in answers:
        for theirs in rivals if ours.by.startswith("fast") else ():
            found = compared(ours, theirs)
            entry["comparisons"].append(found)
            print(
                f"{'':24}{ours.by} against {theirs.by}: {found['evaluations_ratio']:.1f} times fewer evaluations, "
                f"{found['cpu_ratio']:.1f} times less CPU; only theirs broke {found['only_theirs_broke']}, "
                f"only ours {found['only_ours_broke']}",
                flush=True,
            )
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="folder of reference models with AutoAttack's verdicts")
    parser.add_argument("--n", type=int, default=200, help="images of each model, at most (default 200)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of fast (default 0 1)")
    parser.add_argument("--slow", action="store_true", help="run standard, and pyautoattack where it is installed")
    parser.add_argument("--only", help="judge only the models whose name contains this")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = machine()
    print(f"{where['cpu']}, 1 thread; " + ", ".join(f"{k} {v}" for k, v in where["versions"].items()))
    port = importlib.util.find_spec("pyautoattack") is not None
    if given.slow and not port:
        print("pyautoattack: not installed; it is left out")
    print(f"\n{'model':24}{'verdict by':22}{'robust':>7}{'forwards':>11}{'gradients':>10}{'CPU s':>9}", flush=True)
    entries = []
    for question in questions(given.reference, given.n):
        if given.only and given.only not in question.name:
            continue
        if not entries:
            few = dataclasses.replace(question, x=question.x[:2], y=question.y[:2])
            for warmed in (plan("fast", few, 99), *((packaged(few),) if given.slow and port else ())):
                assert len(warmed.robust) == 2
        answers = [plan("fast", question, seed) for seed in given.seeds]
        if question.published:
            answers.append(published(question))
        if given.slow:
            answers.append(plan("standard", question, 0))
            answers += [packaged(question)] if port else []
        entries.append(report(question, answers))
        if given.out:
            given.out.write_text(json.dumps({"machine": where, "models": entries}, indent=2) + "\n")


if __name__ == "__main__":
    main()
