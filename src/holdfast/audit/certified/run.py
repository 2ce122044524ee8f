"""Certifies images and attacks the smoothed classifier on them, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.audit.certified.pursue import GATHERED, pursued, pursuit_cost
from holdfast.audit.certified.question import Question
from holdfast.audit.defended.views import core_of
from holdfast.audit.divided import Progress, Watcher, agree, opened
from holdfast.audit.feed import tensors
from holdfast.audit.ranks import Ranks, taken
from holdfast.data.source import Source
from holdfast.defences.certificate import certify, certify_at
from holdfast.models.model import Model
from holdfast.records.certified import (
    ATTACKS,
    CERTIFICATES,
    Attacked,
    Certified,
    CertifyInfo,
    attacks_store,
    certificates_store,
)

TOGETHER, DRAWN = 32, 100_000
"""Images that are certified together, and draws of their estimation unless one alone takes more: what a kill can lose."""


def at_most(question: Question, n: int) -> tuple[int, int]:
    """Forwards and gradients of the model that ``n`` images can cost in all."""
    forwards, gradients = pursuit_cost(question)
    return n * (1 + question.select + question.estimate + forwards), n * gradients


def run_certified(
    model: Model,
    source: Source,
    question: Question,
    info: CertifyInfo,
    folder: Path,
    *,
    ranks: Ranks,
    watch: Watcher | None = None,
) -> float | None:
    """Certifies and attacks everything that ``folder`` does not hold yet; the seconds that it took, None: nothing was left.

    Args:
        ranks: the processes that share the work. Each of them calls this.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`; both parts are looked at before any work.
        BadModel: the model fails on an image; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    with ExitStack() as stack:
        certificates = stack.enter_context(opened(lambda rank: certificates_store(folder, info, rank), ranks))
        attacks = None
        if question.attack:
            attacks = stack.enter_context(opened(lambda rank: attacks_store(folder, info, rank), ranks))
        stack.enter_context(frozen(model.module))
        stack.enter_context(rng_kept(model.device))
        known = (len(certificates.done), len(attacks.done)) if attacks else (len(certificates.done),)
        session = _Session(model, source, question, watch, known, ranks)
        for line in session.certificates(frozenset(certificates.done)):
            certificates.append(line)
            session.tell(0, 1)
        if attacks:
            for line in session.attacks(frozenset(attacks.done)):
                attacks.append(line)
                session.tell(1, 1)
            agree(attacks, ranks)
        agree(certificates, ranks)
        session.tell(len(known) - 1, 0)
        return time.monotonic() - session.began if session.done != known else None


@dataclass
class _Session:
    """The work, and how far it is: ``known`` lines of each part at its start, ``done`` by now, by all processes.

    Chunks are those of a run from the start, so that a resumed one has the same bits.
    """

    model: Model
    source: Source
    question: Question
    watch: Watcher | None
    known: tuple[int, ...]
    ranks: Ranks
    done: tuple[int, ...] = field(init=False)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done = self.known

    def certificates(self, done: Set[tuple[int, ...]]) -> Iterator[Certified]:
        asked = self.question
        settings = {key: getattr(asked, key) for key in ("sigma", "select", "estimate", "alpha", "seed")}
        size = max(1, min(TOGETHER, DRAWN // asked.estimate))
        for x, y, ids in self._chunks(CERTIFICATES, size, done):
            if asked.early_stop:
                found = certify_at(self.model.module, x, ids, radii=asked.decided, **settings)
            else:
                found = certify(self.model.module, x, ids, **settings)
            said = engine.predict(self.model, x).argmax(1)
            columns = (ids, y, found.label, found.radius, found.votes, found.draws, said)
            for row in zip(*(column.tolist() for column in columns)):
                if (row[0],) not in done:
                    yield Certified(**dict(zip(Certified.model_fields, row)))

    def attacks(self, done: Set[tuple[int, ...]]) -> Iterator[Attacked]:
        size = GATHERED if self.model.device.type == "cpu" else 8 * GATHERED
        for x, y, ids in self._chunks(ATTACKS, size, done):
            for line in pursued(core_of(self.model), x, y, ids, self.question):
                if (line.id,) not in done:
                    yield line

    def tell(self, part: int, lines: int) -> None:
        """So many more lines of that part are written here."""
        before, names = sum(self.done), ("certificates", "attack")
        fresh = (self.ranks.add(f"{name} done", lines if at == part else 0) for at, name in enumerate(names))
        self.done = tuple(then + more for then, more in zip(self.known, fresh))
        if self.watch and sum(self.done) > before:
            asked, n = self.question, len(self.source)
            forwards, gradients = pursuit_cost(asked)
            weights = (asked.select + asked.estimate, forwards + 2 * gradients)
            spent = sum((now - then) * each for now, then, each in zip(self.done, self.known, weights))
            left = sum((n - now) * each for now, each in zip(self.done, weights))
            seconds = time.monotonic() - self.began
            self.watch(Progress(names[part], sum(self.done), n * len(self.done), seconds, left * seconds / spent))

    def _chunks(self, name: str, size: int, done: Set[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and ids of each chunk that is not written yet in whole, and that no other process takes."""
        ids = np.ascontiguousarray(self.source.ids)
        chunks = [ids[first : first + size] for first in range(0, len(ids), size)]
        left = [chunk for chunk in chunks if any((one,) not in done for one in chunk.tolist())]
        for chunk in taken(left, self.ranks, f"{name} taken"):
            x, y = tensors(self.source, chunk, dtype=self.model.dtype, device=self.model.device)
            yield x, y, torch.from_numpy(chunk).to(x.device)
