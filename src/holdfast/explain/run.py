"""Asks one question after the other: says the cost first, keeps every answer, holds the answers against one another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.ascent.frozen import frozen
from holdfast.audit.ranks import Alone, Ranks, by_first, in_turn, taken
from holdfast.data.source import subset
from holdfast.experiments.configure import validated
from holdfast.explain import store
from holdfast.explain.case import Case
from holdfast.explain.case_file import case_files
from holdfast.explain.contradictions import contradictions
from holdfast.explain.found import Figure, Found
from holdfast.explain.portraits import PICTURED, portraits
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue

SHARES = 64
"""Into how many parts the default numbers of images are divided when a budget is shared out."""


@dataclass(frozen=True)
class Speed:
    """Seconds for a forward of one image by the model, and for a forward with the gradient."""

    forward: float
    gradient: float

    def seconds(self, effort: Effort) -> float:
        """How long that takes, about; a gradient's own forward is part of it."""
        return effort.forwards * self.forward + effort.gradients * (self.gradient - self.forward)


@dataclass(frozen=True)
class Question:
    """A probe under its registry name, for n images, at its price."""

    name: str
    probe: Probe
    n: int
    effort: Effort


@dataclass(frozen=True)
class Explanation:
    """What came out: the answers by the names of their questions, and what contradicts itself, which comes first.

    Args:
        probes, answers: by the names of the questions; those that the folder held before are among them.
        breaches: a sentence for each contradiction.
        cases: a file for each image, the most fragile first (see `holdfast.explain.case_file`).
        folder: where all of it is written; None if nothing was to be left behind.
    """

    probes: Mapping[str, Probe]
    answers: Mapping[str, Found]
    breaches: tuple[str, ...]
    cases: tuple[dict[str, Any], ...]
    folder: Path | None

    def figures(self, name: str) -> tuple[Figure, ...]:
        """The figures of an answer."""
        return self.probes[name].draw(self.answers[name])

    def _repr_html_(self) -> str:
        """What a notebook shows: the page without its frame."""
        from holdfast.report.explained import piece

        return piece(self)


def measured(case: Case, *, images: int = 32, repeats: int = 3) -> Speed:
    """How fast the model is here: the best of a few goes, so that a busy machine does not lengthen it."""
    net = case.nets[0]
    x = case.batch(net, subset(case.source, min(images, case.n), case.seed)).x
    forward, gradient = [], []
    with frozen(net.model.module):
        net.logits(x)
        for _ in range(repeats):
            began = time.perf_counter()
            net.logits(x)
            forward.append(time.perf_counter() - began)
            began = time.perf_counter()
            point = x.clone().requires_grad_()
            torch.autograd.grad(net.model(point).sum(), point)
            gradient.append(time.perf_counter() - began)
    return Speed(min(forward) / len(x), min(gradient) / len(x))


def planned(
    case: Case, probes: Mapping[str, Probe], speed: Speed, *, budget: float | None = None
) -> tuple[Question, ...]:
    """The questions with their numbers of images: each its own default, or what fits into ``budget`` seconds together.

    A probe is never asked for fewer images than it needs, so that a small budget may be exceeded.

    Raises:
        BadValue: a probe refuses the case, or there are fewer images than it needs.
    """
    for name, probe in probes.items():
        if reason := probe.refuses(case):
            raise BadValue(f"{name} cannot be asked: {reason}", hint="or leave this question out")
        if case.n < probe.least:
            raise BadValue(
                f"{name} needs at least {probe.least} images, and there are {case.n}",
                hint="raise --limit, or leave it out",
            )

    def questions(share: float) -> tuple[Question, ...]:
        found = []
        for name, probe in probes.items():
            n = min(case.n, max(probe.least, int(share * probe.images)))
            found.append(Question(name, probe, n, probe.effort(case, n)))
        return tuple(found)

    if budget is None:
        return questions(1.0)
    for part in range(SHARES, 0, -1):
        asked = questions(part / SHARES)
        if sum(speed.seconds(each.effort) for each in asked) <= budget:
            return asked
    return questions(1 / SHARES)


def run(
    case: Case, questions: Sequence[Question], out: Path, *, command: str, step: Step = lambda *_: None
) -> Explanation:
    """Asks what is not yet answered in the folder, writes each answer as it comes, and checks them all together.

    Raises:
        PlanMismatch: the folder is about other nets or images.
        StorageError: it cannot be written.
        BadFile: an answer in it is damaged.
    """
    ask(case, questions, out, command=command, step=step, ranks=Alone())
    return explained(case, out)


def ask(
    case: Case, questions: Sequence[Question], out: Path, *, command: str, step: Step = lambda *_: None, ranks: Ranks
) -> None:
    """Asks what is not yet answered in the folder, and writes each answer as it comes.

    Args:
        ranks: the processes that share the questions, each of which calls this with the same ones; the next question, the
            costliest first, goes to who is free. All wait for the last answer.

    Raises:
        PlanMismatch, StorageError, BadFile: as `run`; another process may be about other nets or images than the first.
        Incomplete: another process ended; what is answered stays answered.
    """
    in_turn(ranks, lambda: store.opened(out, store.described(case, command), ranks.rank))
    missing = by_first(ranks, lambda: _unanswered(case, questions, out))
    todo = [question for question in questions if question.name in missing]
    if ranks.world > 1:
        todo.sort(key=lambda question: question.effort.forwards + 2 * question.effort.gradients, reverse=True)
    with ExitStack() as stack:
        for net in case.nets:
            stack.enter_context(frozen(net.model.module))
        for question in taken(todo, ranks, "questions taken"):
            asked = replace(case, source=subset(case.source, question.n, case.seed))
            began = time.perf_counter()
            found = question.probe.ask(asked, step)
            answer = store.Answer(
                probe=question.name,
                question=question.probe.question,
                settings=_plain(asdict(question.probe)),
                ids=tuple(asked.source.ids.tolist()),
                forwards=question.effort.forwards,
                gradients=question.effort.gradients,
                seconds=time.perf_counter() - began,
                found=store.packed(found),
            )
            store.save(out, answer, found, question.probe.draw(found))
    ranks.gather("answered")


def _unanswered(case: Case, questions: Sequence[Question], out: Path) -> set[str]:
    """The names of the questions that the folder does not answer with these settings for these images."""
    known = {name: (answer.settings, answer.ids) for name, (answer, _) in store.answered(out).items()}
    return {
        each.name
        for each in questions
        if known.get(each.name)
        != (_plain(asdict(each.probe)), tuple(subset(case.source, each.n, case.seed).ids.tolist()))
    }


def explained(case: Case, out: Path) -> Explanation:
    """All answers of a folder held against one another, with the case files, which are written. Raises as `run`."""
    before = store.answered(out)
    answers = {name: found for name, (_, found) in before.items()}
    probes = {
        name: validated(registry.load("probe", name), answer.settings, name) for name, (answer, _) in before.items()
    }
    cases = case_files(case, {name: (answer.ids, found) for name, (answer, found) in before.items()})
    store.save_cases(out, cases, _portraits(case, out, [each["id"] for each in cases[:PICTURED]]))
    return Explanation(probes, answers, contradictions(answers.values()), cases, out)


def _portraits(case: Case, out: Path, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """The portraits of these images; those that the folder has already are not made again."""
    old = store.portrayed(out)
    if old.get("ids", np.zeros(0)).tolist() == sorted(ids):
        return old
    return portraits(case, ids) if len(ids) else {}


def _plain(value: Any) -> Any:
    """Settings as JSON gives them back: tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
