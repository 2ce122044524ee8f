"""`holdfast.audit_perturbations`: a model along perturbation sequences from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.audit.config import check_numbers
from holdfast.audit.divided import Watcher
from holdfast.audit.perturbed.question import asked, divided_by
from holdfast.audit.perturbed.run import describe_sequences, evaluate_sequences
from holdfast.data.load import load as load_data
from holdfast.data.source import Source
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.sequences import SequencesSummary


def audit_perturbations(
    model: nn.Module | Model | Callable[[Tensor], Tensor] | str,
    data: Source | tuple[Any, Any] | str | Path | Any,
    *,
    perturbations: str | Sequence[str] = "all",
    difficulty: int = 1,
    variant: str | None = None,
    baseline: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = None,
    watch: Watcher | None = None,
) -> SequencesSummary:
    """How often a classifier changes its mind along small changes of an image: ImageNet-P's protocol.

    Args:
        model, data, variant, seed, out, limit, watch: as `holdfast.audit_corruptions`.
        perturbations: names, or ``all`` (the 10 that count), ``extra``.
        difficulty: 1, 2 or 3: stronger noise, and frames that are further apart.
        baseline: what flip probabilities are divided by: ``"alexnet"``, or the folder of another model's run.

    Raises:
        HoldfastError: what was given cannot be evaluated as it stands; the hint says what to do.
    """
    check_numbers(limit=limit, slots=None, seed=seed)
    source = load_data(data, limit=limit, seed=seed)
    names = [perturbations] if isinstance(perturbations, str) else perturbations
    question = asked(source, perturbations=names, difficulty=difficulty, variant=variant, seed=seed)
    loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
    info = describe_sequences(loaded, source, question, name=loaded.name)
    divisor = divided_by(baseline, info)
    if out is not None:
        return evaluate_sequences(loaded, source, info, question, Path(out), divisor, watch=watch)
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        return evaluate_sequences(loaded, source, info, question, Path(folder), divisor, watch=watch)
