"""What a run over corruptions will cost, before it runs: every condition is made on a part of one chunk."""

from __future__ import annotations

import time

import numpy as np

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.audit.corrupted.question import Asked
from holdfast.audit.corrupted.run import chunk_of
from holdfast.audit.estimate import CHECKS, Cost
from holdfast.audit.feed import uint8_images
from holdfast.audit.preflight import look
from holdfast.data.source import Source
from holdfast.foundation import memory
from holdfast.models.doctor import raise_errors
from holdfast.models.model import Model
from holdfast.records.schema import CLEAN

PART = 4
"""Of the images of a chunk, every condition is tried on one in so many."""


def estimate_conditions(model: Model, source: Source, question: Asked) -> list[Cost]:
    """The cost of the doctor, of the clean images and of every corruption, its severities together.

    Nothing falls under a corruption, so that ``usual`` is ``seconds``: what a chunk's part took, scaled to all images. The
    model is asked a whole chunk, as in the run, so that ``memory`` is the run's.

    Raises:
        BadModel, BadData: as the run would.
    """
    n, began = len(source), time.perf_counter()
    raise_errors(look(model, source).findings)
    checks = time.perf_counter() - began
    costs = [Cost(CHECKS, 0, 0, checks, checks, memory.peak())]
    whole = np.unique(np.linspace(0, n - 1, chunk_of(source)).astype(int))
    ids = np.asarray(source.ids)[whole]
    began = time.perf_counter()
    clean = uint8_images(source.take(ids).images).to(model.device)
    read = (time.perf_counter() - began) / len(ids)
    with frozen(model.module), rng_kept(model.device):
        forward = _twice(lambda: engine.predict(model.module, clean.to(model.dtype) / 255)) / len(ids)
        costs.append(Cost(CLEAN, n, 0, n * (read + forward), n * (read + forward), memory.peak()))
        some = max(1, len(ids) // PART)
        for name in question.corruptions:
            question.supply(name, question.severities[0], ids[:1], clean[:1])  # tables and pictures are made once
            making = 0.0
            for level in question.severities:
                began = time.perf_counter()
                question.supply(name, level, ids[:some], clean[:some])
                making += (time.perf_counter() - began) / some
            seconds = n * (making + len(question.severities) * forward)
            costs.append(Cost(name, n * len(question.severities), 0, seconds, seconds, memory.peak()))
    return costs


def _twice(work) -> float:
    """Seconds of the second of two evaluations; the first warms up. Answers are waited for where they are read."""
    for _ in range(2):
        began = time.perf_counter()
        work().sum().item()
    return time.perf_counter() - began
