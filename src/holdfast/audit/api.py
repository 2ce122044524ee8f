"""`holdfast.audit`: an audit from Python, its outcome as a value."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast.ascent.acceleration import Acceleration
from holdfast.ascent.halves import halves
from holdfast.audit import plan as plans
from holdfast.audit.config import check_numbers
from holdfast.audit.description import describe
from holdfast.audit.feed import tensors
from holdfast.audit.plan import Plan
from holdfast.audit.preflight import examined
from holdfast.audit.run import run
from holdfast.audit.session import Watcher
from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.foundation import units
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.schema import CLEAN, Finding, Summary
from holdfast.records.store import FINAL_POINTS, read_records
from holdfast.threats.threat import Threat

AT_ONCE = 1024
"""How many images are read at a time when the outcome is put together."""


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit, sample by sample in the order of ``ids``.

    Args:
        ids: the samples, (N,) int64.
        labels: their true labels, (N,) int64.
        correct: whether the clean image is classified correctly, (N,) bool.
        robust: whether it still is at the worst point found within ``eps``, (N,) bool. False where ``summary.failed`` says
            that the sample could not be evaluated, and so is ``correct`` where it has no clean verdict.
        points: that point, (N, C, H, W) floats in [0, 1]; the clean image where nothing fooled. NaN, and the label -1,
            where the image cannot be read.
        summary: the headline numbers with their intervals, as ``summary.json`` has them.
        folder: where the run is written; None if it was asked to leave nothing behind.
    """

    ids: Tensor
    labels: Tensor
    correct: Tensor
    robust: Tensor
    points: Tensor
    summary: Summary
    folder: Path | None

    def __repr__(self) -> str:  # of millions of pixels, which notebooks would print
        told = self.summary
        return (
            f"Audit({told.name}: clean {told.clean_accuracy.value:.1%}, robust {told.robust_accuracy.value:.1%} "
            f"({told.robust_accuracy.low:.1%} to {told.robust_accuracy.high:.1%}) at {told.threat} {units.show(told.eps)}, "
            f"n = {len(self.ids)}, plan {told.plan}, {len(told.warnings)} warnings)"
        )

    @property
    def clean_accuracy(self) -> float:
        """The share of clean images classified correctly."""
        return self.summary.clean_accuracy.value

    @property
    def robust_accuracy(self) -> float:
        """The share that no attack broke within ``eps``: an upper bound of the truth."""
        return self.summary.robust_accuracy.value

    @property
    def forwards(self) -> int:
        """Evaluations of one image."""
        return self.summary.forwards

    @property
    def backwards(self) -> int:
        """Input gradients of one image."""
        return self.summary.backwards

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Reasons to doubt the numbers."""
        return self.summary.warnings


def audit(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    *,
    threat: Threat,
    plan: str | Plan = "fast",
    seed: int = 0,
    out: str | Path | None = None,
    curve: Sequence[float | str] = (),
    audited: int = 0,
    limit: int | None = None,
    slots: int | None = None,
    precision: str = "full",
    compile: str = "none",
    watch: Watcher | None = None,
) -> Audit:
    """How robust a classifier is, in the worst case over a threat set.

    Args:
        model: images in [0, 1] -> logits: a module, a function, a `Model`, or text (``"net:NAME"``, ``"module:factory"``).
        data: a pair (images, labels), a data set, a `Source`, a name (``"digits"``) or a path.
        threat: the set of allowed perturbations, for example ``holdfast.Linf("8/255")``.
        plan: which attacks, by name (see `holdfast.audit.plan`) or as a `Plan` of your own.
        seed: of every random draw, and of ``limit``.
        out: a folder to write the run to, and to resume it from; nothing is left behind unless given.
        curve: more radii to audit on the way, for robust accuracy against eps.
        audited: search that many random samples of those left by the plan ``standard``, too, and all if one falls.
        limit: audit a seeded subset of that many samples.
        slots: how many searches run at once; chosen by the images' size unless given.
        precision: what the searches compute in: ``full`` (the model's own type), ``bfloat16`` or ``float16``. Every point
            that counts is judged by the model in its own type.
        compile: how the searches' forward and backward pass is compiled: ``none``, ``default`` or ``graph`` (CUDA graphs).
        watch: called with a `Progress` as samples are finished.

    Raises:
        HoldfastError: what was given cannot be audited as it stands; the hint says what to do.
    """
    check_numbers(limit=limit, slots=slots, seed=seed, audited=audited)
    chosen = plans.named(plan, threat, audited=audited)
    radii = [threat.resized(units.parse(eps, name="curve", unit=threat.unit)).eps for eps in curve]
    source = load_data(data, limit=limit, seed=seed)
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    acceleration = Acceleration(precision, compile)
    acceleration.check(loaded.device)
    preflight = examined(loaded, source, chosen, threat)
    info = describe(
        loaded,
        source,
        threat=threat,
        curve=radii,
        plan=chosen,
        seed=seed,
        preflight=preflight,
        name=loaded.name,
        acceleration=acceleration,
    )
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory(prefix="holdfast-") as given:
        folder = Path(given)
        summary = run(
            loaded,
            source,
            info,
            folder,
            threat=threat,
            plan=chosen,
            slots=slots,
            watch=watch,
            acceleration=acceleration,
        )
        return _collected(folder, summary, loaded, source, None if out is None else folder)


def _collected(folder: Path, summary: Summary, model: Model, source: Source, kept: Path | None) -> Audit:
    ids = np.asarray(source.ids)
    points = torch.full((len(ids), *source.shape), torch.nan, dtype=model.dtype)
    labels = torch.full((len(ids),), -1)

    def read(at: slice) -> None:
        points[at], labels[at] = tensors(source, ids[at], dtype=model.dtype, device=torch.device("cpu"))

    halves(read, len(ids), AT_ONCE, lambda place, error: None)
    correct = np.zeros(len(ids), dtype=bool)
    for record in read_records(folder):
        if record.stage == CLEAN:
            correct[np.searchsorted(ids, record.id)] = not record.fooled
    stored = load_file(folder / FINAL_POINTS)
    inside = stored["eps"] <= summary.eps
    place = torch.from_numpy(np.searchsorted(ids, stored["ids"][inside].numpy()))
    points[place] = stored["points"][inside].to(points.dtype)
    right = torch.from_numpy(correct)
    robust = right.clone()
    robust[place] = False
    robust[np.isin(ids, [each.id for each in summary.failed if each.eps <= summary.eps])] = False
    return Audit(torch.from_numpy(ids.copy()), labels, right, robust, points, summary, kept)
