"""Nets that have no training image in common: what transfers between them is no matter of the training set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from holdfast.data.source import Subset
from holdfast.explain.case import Case, Net
from holdfast.explain.probe import Step
from holdfast.foundation import registry
from holdfast.models.load import build, load
from holdfast.objectives.standard import Standard
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe


def halves(case: Case, epochs: int, step: Step) -> Iterator[Net]:
    """Two nets, each trained on clean images alone, on its own half of the known ones; none where none are known.

    They are the model's registered net where its weights name one, else ``small_cnn``.
    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 4.2, tables 3 and 4.
    """
    if case.known is None:
        return
    model, order = case.nets[0].model, np.random.default_rng(case.seed).permutation(np.asarray(case.known.ids))
    named = model.declared.get("net", "")
    kind = named if named in registry.names("net") else "small_cnn"
    for place, ids in enumerate(np.array_split(order, 2)):
        step("nets of halves", place, 2)
        seed = case.seed + place
        net = build(kind, shape=model.shape, classes=model.classes, seed=seed).to(model.device)
        fit(net, Subset(case.known, np.sort(ids)), Recipe(Standard(), case.threat, epochs=epochs, seed=seed))
        net.requires_grad_(False)
        yield Net(f"half {place + 1}", load(net, shape=model.shape, device=model.device), "twin")
