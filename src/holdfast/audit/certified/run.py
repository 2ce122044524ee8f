"""Certifies images and attacks the smoothed classifier on them, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
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
from holdfast.audit.divided import Progress, Watcher
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.defences.certificate import certify, certify_at
from holdfast.models.model import Model
from holdfast.records.certified import Attacked, Certified, CertifyInfo, attacks_store, certificates_store

TOGETHER, DRAWN = 32, 100_000
"""Images that are certified together, and draws of their estimation unless one alone takes more: what a kill can lose."""


def at_most(question: Question, n: int) -> tuple[int, int]:
    """Forwards and gradients of the model that ``n`` images can cost in all."""
    forwards, gradients = pursuit_cost(question)
    return n * (1 + question.select + question.estimate + forwards), n * gradients


def run_certified(
    model: Model, source: Source, question: Question, info: CertifyInfo, folder: Path, *, watch: Watcher | None = None
) -> float | None:
    """Certifies and attacks everything that ``folder`` does not hold yet; the seconds that it took, None: nothing was left.

    Raises:
        PlanMismatch, StorageError, BadFile: as `PartStore`; both parts are looked at before any work.
        BadModel: the model fails on an image; what is finished stays finished.
    """
    with ExitStack() as opened:
        certificates = opened.enter_context(closing(certificates_store(folder, info)))
        attacks = opened.enter_context(closing(attacks_store(folder, info))) if question.attack else None
        opened.enter_context(frozen(model.module))
        opened.enter_context(rng_kept(model.device))
        known = (len(certificates.done), len(attacks.done)) if attacks else (len(certificates.done),)
        session = _Session(model, source, question, watch, known)
        for line in session.certificates(certificates.done):
            certificates.append(line)
            session.tell("certificates", 0)
        if attacks:
            for line in session.attacks(attacks.done):
                attacks.append(line)
                session.tell("attack", 1)
        return time.monotonic() - session.began if tuple(session.done) != known else None


@dataclass
class _Session:
    """The work, and how far it is: ``known`` lines of each part at its start, ``done`` by now.

    Chunks are those of a run from the start, so that a resumed one has the same bits.
    """

    model: Model
    source: Source
    question: Question
    watch: Watcher | None
    known: tuple[int, ...]
    done: list[int] = field(init=False)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done = list(self.known)

    def certificates(self, done: set[tuple[int, ...]]) -> Iterator[Certified]:
        asked = self.question
        settings = {key: getattr(asked, key) for key in ("sigma", "select", "estimate", "alpha", "seed")}
        size = max(1, min(TOGETHER, DRAWN // asked.estimate))
        for x, y, ids in self._chunks(size, done):
            if asked.early_stop:
                found = certify_at(self.model.module, x, ids, radii=asked.decided, **settings)
            else:
                found = certify(self.model.module, x, ids, **settings)
            said = engine.predict(self.model, x).argmax(1)
            columns = (ids, y, found.label, found.radius, found.votes, found.draws, said)
            for row in zip(*(column.tolist() for column in columns)):
                if (row[0],) not in done:
                    yield Certified(**dict(zip(Certified.model_fields, row)))

    def attacks(self, done: set[tuple[int, ...]]) -> Iterator[Attacked]:
        size = GATHERED if self.model.device.type == "cpu" else 8 * GATHERED
        for x, y, ids in self._chunks(size, done):
            for line in pursued(core_of(self.model), x, y, ids, self.question):
                if (line.id,) not in done:
                    yield line

    def tell(self, stage: str, part: int) -> None:
        """One more line of that part is written."""
        self.done[part] += 1
        if self.watch:
            asked, n = self.question, len(self.source)
            forwards, gradients = pursuit_cost(asked)
            weights = (asked.select + asked.estimate, forwards + 2 * gradients)
            spent = sum((now - then) * each for now, then, each in zip(self.done, self.known, weights))
            left = sum((n - now) * each for now, each in zip(self.done, weights))
            seconds = time.monotonic() - self.began
            self.watch(Progress(stage, sum(self.done), n * len(self.done), seconds, left * seconds / spent))

    def _chunks(self, size: int, done: set[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and ids of each chunk that is not written yet in whole."""
        ids = np.asarray(self.source.ids)
        for first in range(0, len(ids), size):
            part = np.ascontiguousarray(ids[first : first + size])
            if any((one,) not in done for one in part.tolist()):
                x, y = tensors(self.source, part, dtype=self.model.dtype, device=self.model.device)
                yield x, y, torch.from_numpy(part).to(x.device)
