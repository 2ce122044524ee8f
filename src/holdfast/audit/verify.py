"""Replays every stored point of a run: inside the set, and misclassified, by one clean forward each.

Where the points of the set are parameters of a transformation (`Threat.parametric`), a run stores the images that they
give. How far an image was turned cannot be measured on it: its distance is taken from the record, and what is checked is
that it lies in [0, 1] and is misclassified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from holdfast.ascent import engine
from holdfast.ascent.frozen import repeatable
from holdfast.ascent.views import Expectation
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile, PlanMismatch
from holdfast.models.model import Model
from holdfast.records.known import within
from holdfast.records.schema import CLEAN
from holdfast.records.store import FINAL_POINTS, read_info, read_summary

_ANEW = "run the same audit again: it writes the file anew"


@dataclass(frozen=True)
class Verified:
    """The outcome of a replay.

    Args:
        points: how many stored points were replayed.
        upheld: how many are inside the set (as far as an image shows it), in [0, 1] and misclassified.
        refuted: (sample id, why not) of the others.
        claimed, found: the number of samples broken by the summary, and by the points.
    """

    points: int
    upheld: int
    refuted: tuple[tuple[int, str], ...]
    claimed: int
    found: int

    @property
    def good(self) -> bool:
        """Whether every claim of the run is borne out."""
        return self.upheld == self.points and self.claimed == self.found


def verify(
    folder: Path, model: Model, source: Source, *, slots: int = 256, watch: Callable[[int, int], None] | None = None
) -> Verified:
    """Replays the points of a finished run on the model and the images that it was made with.

    Raises:
        BadFile: the run is not finished, or its points are damaged.
        PlanMismatch: the model or the data are not those of the run.
    """
    info, summary = read_info(folder), read_summary(folder)
    for what, then, now in (
        ("model", info.model.fingerprint, model.fingerprint),
        ("data", info.data.fingerprint, source.fingerprint()),
    ):
        if then != now:
            raise PlanMismatch(
                f"the {what} is not the one of the run: fingerprint {now}, the run has {then}",
                hint=f"give the {what} that {folder} was made with, with the same options (limit and seed, too)",
            )
    judge = Expectation(model, info.draws) if info.draws > 1 else model
    threat = registry.load("threat", info.threat)(info.eps)
    path = folder / FINAL_POINTS
    refuted: list[tuple[int, str]] = []
    try:
        with safe_open(path, "pt") as file, repeatable(model.module, seed=info.seed, device=model.device):
            ids, radii = file.get_tensor("ids"), file.get_tensor("eps")
            points = file.get_slice("points")
            shapes = [[*ids.shape], [*radii.shape], points.get_shape()]
            if shapes != [[len(ids)], [len(ids)], [len(ids), *info.data.shape]] or ids.dtype != torch.int64:
                raise BadFile(f"{path} holds tensors of other shapes than a run's", hint=_ANEW)
            largest = max(info.curve)
            for start in range(0, len(ids), slots):
                part = ids[start : start + slots].numpy()
                x = points[start : start + slots].to(model.device, model.dtype)
                x0, y = tensors(source, part, dtype=model.dtype, device=model.device)
                fooled = engine.predict(judge, x).argmax(1) != y
                distance = radii[start : start + slots] if threat.parametric else threat.distance(x0, x)
                boxed = ((x >= 0) & (x <= 1)).flatten(1).all(1)
                for i, sample in enumerate(part.tolist()):
                    if not bool(boxed[i]):
                        refuted.append((sample, "has pixels outside [0, 1]"))
                    elif not within(float(distance[i]), float(radii[start + i])):
                        refuted.append(
                            (sample, f"lies {float(distance[i]):.6g} away, {float(radii[start + i]):.6g} is allowed")
                        )
                    elif not within(float(radii[start + i]), largest):
                        said = f"was searched within {float(radii[start + i]):.6g}, the run within {largest:.6g}"
                        refuted.append((sample, said))
                    elif not bool(fooled[i]):
                        refuted.append((sample, "is classified correctly"))
                if watch:
                    watch(min(start + slots, len(ids)), len(ids))
    except (OSError, SafetensorError) as error:
        raise BadFile(f"{path} cannot be read: {error}", hint=_ANEW) from None
    at = {point.eps: point.robust_accuracy for point in summary.curve}
    widest = at[max(at)]
    found = np.unique(ids.numpy())
    unfinished = {each.id for each in summary.failed if each.stage != CLEAN}.difference(found.tolist())
    claimed = round(summary.clean_accuracy.value * summary.clean_accuracy.n) - round(widest.value * widest.n)
    return Verified(len(ids), len(ids) - len(refuted), tuple(refuted), claimed - len(unfinished), len(found))
