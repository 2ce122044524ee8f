"""`holdfast.audit_corruptions`: a model under common corruptions from Python, its outcome as a value."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from holdfast.ascent.meter import Classifier
from holdfast.audit.config import check_numbers
from holdfast.audit.corrupted.conclude import (
    Baseline,
    check_baseline,
    conclude_conditions,
    errors_of,
    standard_baseline,
)
from holdfast.audit.corrupted.question import Asked, asked
from holdfast.audit.corrupted.run import describe_conditions, run_conditions
from holdfast.audit.divided import Watcher
from holdfast.audit.ranks import Alone, Ranks, by_first
from holdfast.data.frost import frost_photographs
from holdfast.data.load import load as load_data
from holdfast.data.released import open_released
from holdfast.data.source import Source
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.conditions import (
    ConditionsInfo,
    ConditionsSummary,
    Seen,
    finished_conditions,
    gathered,
)


@dataclass(frozen=True)
class CorruptionAudit:
    """The outcome of an audit over corruptions.

    Args:
        summary: the numbers, as ``corruptions/summary.json`` has them.
        seen: label, prediction and confidence of every image under every condition.
        ids: the images, (n,) int64, in the order of those arrays.
        folder: where the run is written; None if it was asked to leave nothing behind.
    """

    summary: ConditionsSummary
    seen: Seen
    ids: np.ndarray
    folder: Path | None

    @property
    def clean_error(self) -> float:
        """The share of clean images classified wrongly."""
        return self.summary.clean.error.value

    @property
    def mean_error(self) -> float | None:
        """The mean error over the benchmark's corruptions that were run, not normalised; None if none was."""
        return None if self.summary.mean_error is None else self.summary.mean_error.value

    @property
    def mce(self) -> float | None:
        """The mean CE, a ratio to the baseline's errors; None without a baseline."""
        return None if self.summary.mce is None else self.summary.mce.value

    @property
    def errors(self) -> dict[str, tuple[float, ...]]:
        """Corruption -> its errors by ascending severity."""
        return errors_of(self.summary.cells)


def audit_corruptions(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    *,
    corruptions: str | Sequence[str] = "all",
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    variant: str | None = None,
    frost_dir: str | Path | None = None,
    released: str | Path | None = None,
    jpeg: int | None = None,
    baseline: str | Path | None = None,
    adapt: Callable[[Model], Classifier] | None = None,
    adaptation: str = "",
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = None,
    watch: Watcher | None = None,
) -> CorruptionAudit:
    """How a classifier stands common corruptions: ImageNet-C's protocol.

    Args:
        model: images in [0, 1] -> logits: a module, a function, a `Model`, or text (``"net:NAME"``, ``"module:factory"``).
        data: the clean images: a pair (images, labels), a data set, a `Source`, a name (``"digits"``) or a path.
        corruptions: names, or ``all`` (the 15 and our held-out ones), ``test``, ``validation``, ``held_out``.
        severities: of 1 to 5.
        variant: whose constants: ``"32"``, ``"64"``, ``"224"``; by the size of the images unless given.
        frost_dir: the folder of the benchmark's frost photographs; a procedural frost unless given.
        released: the folder of released files (CIFAR-10-C, ImageNet-C) to read in place of corrupting ``data``.
        jpeg: quality of a JPEG that every image goes through after its corruption; ImageNet-C's was 85.
        baseline: what a CE divides by: ``"alexnet"``, or the folder of another model's run; AlexNet for ImageNet's 1,000
            classes at the variant 224, else none.
        adapt: makes a classifier that adapts to what it is shown, anew for each condition; ``adaptation`` is its name.
        seed: of every draw, and of ``limit``.
        out: a folder to write the run to, and to resume it from; nothing is left behind unless given.
        limit: a seeded subset of that many images.
        watch: called with a `Progress` as chunks are finished.

    Raises:
        HoldfastError: what was given cannot be evaluated as it stands; the hint says what to do.
    """
    check_numbers(limit=limit, slots=None, seed=seed)
    source = load_data(data, limit=limit, seed=seed)
    question = asked(
        source,
        corruptions=[corruptions] if isinstance(corruptions, str) else corruptions,
        severities=severities,
        variant=variant,
        frost=frost_photographs(Path(frost_dir)) if frost_dir is not None else (),
        jpeg=jpeg,
        released=open_released(Path(released)) if released is not None else None,
        seed=seed,
    )
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    info = describe_conditions(loaded, source, question, name=loaded.name, adaptation=adaptation)
    divisor = divided_by(baseline, info)
    if out is not None:
        summary = evaluate_conditions(loaded, source, info, question, Path(out), divisor, adapt=adapt, watch=watch)
        return CorruptionAudit(summary, gathered(Path(out), len(source)), np.asarray(source.ids), Path(out))
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        summary = evaluate_conditions(loaded, source, info, question, Path(folder), divisor, adapt=adapt, watch=watch)
        return CorruptionAudit(summary, gathered(Path(folder), len(source)), np.asarray(source.ids), None)


def divided_by(baseline: str | Path | None, info: ConditionsInfo) -> Baseline | None:
    """What the CE of this run divide by: the baseline that is named, AlexNet where it is known, or nothing.

    Raises:
        BadFile: the folder holds no finished run over corruptions.
        BadValue: the baseline was not measured on these conditions, or made no error there.
    """
    divisor = Baseline.named(str(baseline)) if baseline is not None else standard_baseline(info)
    if divisor:
        check_baseline(divisor, info)
    return divisor


def evaluate_conditions(
    model: Model,
    source: Source,
    info: ConditionsInfo,
    question: Asked,
    folder: Path,
    divisor: Baseline | None,
    *,
    adapt: Callable[[Model], Classifier] | None = None,
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
) -> ConditionsSummary:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Args:
        divisor: what a CE divides by, see `divided_by`.
        ranks: the processes that share the work, each of which calls this.

    Raises:
        PlanMismatch, StorageError, BadFile, BadModel, Incomplete: as `run_conditions`.
    """
    ranks = ranks or Alone()
    known = by_first(ranks, lambda: finished_conditions(folder, info))
    if known:
        if known.baseline == (divisor.name if divisor and known.counted else ""):
            return known
        seconds = known.seconds
    else:
        seconds = run_conditions(model, source, info, question, folder, ranks=ranks, adapt=adapt, watch=watch)
    return by_first(
        ranks, lambda: conclude_conditions(folder, info, question, source, baseline=divisor, seconds=seconds)
    )
