"""`holdfast.explain`: questions about a model from Python, their answers as values."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.explain.case import Case, Net, apart
from holdfast.explain.configure import configured
from holdfast.explain.controls import controlled
from holdfast.explain.probe import Probe, Step
from holdfast.explain.run import Explanation, measured, planned, run
from holdfast.foundation import units
from holdfast.foundation.registry import name_of
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.threats.threat import Threat

Given = nn.Module | Model | Callable[[Tensor], Tensor] | str


def explain(
    model: Given,
    data: Source | tuple[Any, Any] | str | Path | Any,
    *,
    threat: Threat,
    probes: Sequence[str | Probe] | None = None,
    against: Mapping[str, Given] | None = None,
    known: Source | tuple[Any, Any] | str | Path | None = None,
    control: bool = True,
    limit: int | None = 200,
    budget: float | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    step: Step = lambda *_: None,
) -> Explanation:
    """Why a classifier is robust or is not.

    Args:
        model: images in [0, 1] -> logits: a module, a function, a `Model`, or text (``"net:NAME"``, ``"module:factory"``).
        data: the images under test: a pair (images, labels), a data set, a `Source`, a name (``"digits"``) or a path.
        threat: the set of allowed perturbations: ``holdfast.Linf``, ``L2`` or ``L1``.
        probes: which questions, by name or as probes with settings of your own; unless given, all that can be asked here.
        against: twins to compare with, by the names that tables give them.
        known: labelled images that the nets may have been trained on, none of which is under test.
        control: put an untrained net of the same layers beside the model, where its layers allow it.
        limit: take a seeded subset of that many images.
        budget: seconds, or text such as ``"60s"``: decides how many images each question takes.
        seed: of every draw.
        out: a folder to write to, and to go on in; nothing is left behind unless given.
        step: called with a name, how much of it is done, and how much there is.

    Raises:
        HoldfastError: what was given cannot be asked about as it stands; the hint says what to do.
    """
    source = load_data(data, limit=limit, seed=seed)
    learned = None if known is None else load_data(known)
    if learned is not None:
        apart(learned, source)
    nets = [Net("model", load_model(model, shape=source.shape))]
    nets += [Net(name, load_model(each, shape=source.shape), "twin") for name, each in (against or {}).items()]
    case = Case(controlled(nets, seed=seed) if control else tuple(nets), source, threat, learned, seed)
    asked = chosen(probes, case)
    seconds = None if budget is None else units.seconds(budget)
    questions = planned(case, asked, measured(case), budget=seconds)
    if out is not None:
        return run(case, questions, Path(out), command="holdfast.explain", step=step)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        return replace(run(case, questions, Path(folder), command="holdfast.explain", step=step), folder=None)


def chosen(probes: Sequence[str | Probe] | None, case: Case) -> dict[str, Probe]:
    """The probes by name: those given, or all that do not refuse the case."""
    if probes is None:
        return {name: probe for name, probe in configured(None).items() if not probe.refuses(case)}
    found: dict[str, Probe] = {}
    for each in probes:
        found |= configured([each]) if isinstance(each, str) else {name_of(each): each}
    return found
