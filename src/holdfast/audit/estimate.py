"""What a plan will cost, before it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows, State
from holdfast.audit.feed import tensors
from holdfast.audit.plan import Plan
from holdfast.data.source import Source
from holdfast.losses import margin
from holdfast.models.model import Model
from holdfast.threats.threat import Threat


@dataclass(frozen=True)
class Cost:
    """The most that one stage can cost at one radius: if no sample falls before its end and all enter it.

    ``seconds`` extrapolates a few measured evaluations of the search copy on a full batch; ``usual`` is what is left of it
    where only as many enter as usual.
    """

    stage: str
    forwards: int
    backwards: int
    seconds: float
    usual: float


def estimate(model: Model, source: Source, *, threat: Threat, plan: Plan, slots: int | None = None) -> list[Cost]:
    """The cost of every stage of a plan at one radius, the clean pass first. Evaluates a batch three times."""
    sample, _ = tensors(source, source.ids[:1], dtype=model.dtype, device=model.device)
    ids = source.ids[: slots or engine.default_slots(sample)]
    x, y = tensors(source, ids, dtype=model.dtype, device=model.device)
    module = model.module
    searched = search_copy(module, x[:32]).module
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0, device=x.device), y), threat)
    with frozen(module), torch.no_grad():
        forward = _fastest(lambda: engine.predict(model, x), x) / len(x)
        both = _fastest(lambda: evaluate(searched, margin, State.at(rows, x)), x) / len(x)
    costs = [Cost("clean", len(source), 0, forward * len(source), forward * len(source))]
    entering = plan.typically(len(source))
    for stage, (forwards, backwards) in plan.most_evaluations(threat, len(source), model.classes).items():
        seconds = forward * (forwards - backwards) + both * backwards
        costs.append(Cost(stage, forwards, backwards, seconds, seconds * entering[stage]))
    return costs


def _fastest(work, x: torch.Tensor) -> float:
    """Seconds of the faster of two evaluations, after one that warms up."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
