"""A file for each image: all that the questions found out about it, the most fragile images first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from holdfast.ascent.frozen import frozen
from holdfast.data.source import Source
from holdfast.explain.case import Case
from holdfast.explain.found import Found
from holdfast.losses import best_other, true_logit

NEAREST = 3
"""How many known images stand beside an image."""


def case_files(case: Case, answers: Mapping[str, tuple[tuple[int, ...], Found]]) -> tuple[dict[str, Any], ...]:
    """A file for every image that a question was about.

    Args:
        case: with all images that any question was about.
        answers: name of the question -> the images' ids, and the answer.

    Returns:
        Plain data, a dictionary for each image: ``id``, ``label``, ``nets`` (what each net says, with its margin in logits;
        the ``nearest`` misclassified point found, the ``certified`` radius and their ``bracket`` in each norm; and what the
        questions say of single images), ``known`` (the nearest known images in L2), ``fragility``: the smallest distance
        found for the model in the norm of the threat, 0 where it is wrong already, None where nothing was found. In the
        order of fragility, then of the model's margin.
    """
    asked = {one for ids, _ in answers.values() for one in ids}
    chosen = np.array([one for one in case.source.ids if int(one) in asked], dtype=np.int64)
    if not len(chosen):
        return ()
    files: dict[int, dict[str, Any]] = {}
    for net in case.nets:
        batch = case.batch(net)
        keep = torch.from_numpy(np.isin(batch.ids.cpu().numpy(), chosen)).to(batch.x.device)
        x, y, ids = batch.x[keep], batch.y[keep], batch.ids[keep].tolist()
        with frozen(net.model.module):
            logits = net.logits(x)
        margins, said = (true_logit(logits, y) - best_other(logits, y)).tolist(), logits.argmax(1).tolist()
        for one, label, answer, margin in zip(ids, y.tolist(), said, margins):
            file = files.setdefault(one, {"id": one, "label": case.labels[label], "fragility": None, "nets": {}})
            file["nets"][net.name] = {"predicted": case.labels[answer], "margin": _finite(margin)}
    for name, (ids, found) in answers.items():
        for fact in found.distances:
            kind = {"attack": "nearest", "certified": "certified", "random": "along random"}[fact.kind]
            for one, value in zip(fact.ids, fact.values):
                if value is not None and (held := _of(files, one, fact.net)) is not None:
                    old = held.setdefault(kind, {}).get(fact.norm)
                    worse = old is None or (value > old["value"] if fact.kind == "certified" else value < old["value"])
                    if worse:
                        held[kind][fact.norm] = {"value": value, "by": fact.by}
        for net, quantities in found.of_images.items():
            for quantity, values in quantities.items():
                for one, value in zip(ids, values):
                    if (held := _of(files, one, net)) is not None:
                        held.setdefault(name, {})[quantity] = value
    for file in files.values():
        for held in file["nets"].values():
            held["bracket"] = {
                norm: [held.get("certified", {}).get(norm, {}).get("value", 0.0), point["value"]]
                for norm, point in held.get("nearest", {}).items()
            }
        file["fragility"] = _fragility(file, case)
    if case.known is not None:
        _beside(case, files, case.known)
    return tuple(sorted(files.values(), key=lambda file: _order(file, case)))


def _of(files: Mapping[int, dict[str, Any]], one: int, net: str) -> dict[str, Any] | None:
    return files[one]["nets"].get(net) if one in files else None


def _fragility(file: dict[str, Any], case: Case) -> float | None:
    held = file["nets"][case.nets[0].name]
    if held["predicted"] != file["label"]:
        return 0.0
    return held.get("nearest", {}).get(case.threat.name, {}).get("value")


def _order(file: dict[str, Any], case: Case) -> tuple[float, float, int]:
    margin = file["nets"][case.nets[0].name]["margin"]
    return (
        math.inf if file["fragility"] is None else file["fragility"],
        math.inf if margin is None else margin,
        file["id"],
    )


def _beside(case: Case, files: dict[int, dict[str, Any]], known: Source) -> None:
    """Adds to each file the nearest known images, by L2 over all pixel values."""
    ours, theirs = case.batch(case.nets[0]), case.batch(case.nets[0], known)
    away = torch.cdist(ours.x.flatten(1).double(), theirs.x.flatten(1).double())
    near, which = away.topk(min(NEAREST, len(theirs.y)), largest=False)
    for row, one in enumerate(ours.ids.tolist()):
        if one in files:
            files[one]["known"] = [
                {
                    "id": int(theirs.ids[place]),
                    "label": case.labels[int(theirs.y[place])],
                    "l2": distance,
                }
                for distance, place in zip(near[row].tolist(), which[row].tolist())
            ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
