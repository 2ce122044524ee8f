"""Samples that cannot be evaluated: an image that cannot be read, a model that raises or answers with NaN.

They are left out of the records, so that a later session tries exactly them again. Until then none of them counts as robust,
and one without even a clean verdict not as classified correctly: the shares of the run are lower bounds over them, because a
sample must not raise a number by failing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.halves import halves
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.models.model import Model
from holdfast.records.schema import Failure, Finding

BEARABLE = 10
"""So many samples may fail in any run; of more than a thousand, `SHARE`."""

SHARE = 0.01
NAMED = 10
"""How many of them a sentence names; the summary and the page name all."""

FEW = 32
"""How many images the searches' copy of a model is compared on, and whether the model stays what it is."""


class Failures(dict[int, Failure]):
    """The samples of a run that failed in this session, by id.

    ``samples``: of the whole run.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def within(self, eps: float) -> list[int]:
        """The ids of those that do not count as robust at this radius."""
        return [sample for sample, failure in self.items() if failure.eps <= eps]

    def check(self, tried: int) -> None:
        """Refuses to go on where it is the model that fails, or the data, and not a few samples.

        ``tried``: how many samples the stage was through with, or had in hand, when the last one failed.

        Raises:
            BadModel: more than `BEARABLE` failed, and these are more than `SHARE` of all or half of those tried; or all.
        """
        failed = len(self)
        many = failed > BEARABLE and (failed > SHARE * self.samples or 2 * failed > tried)
        if many or failed == self.samples:
            raise BadModel(
                f"{failed} of {self.samples} samples fail: {named(self.values())}",
                hint="mend the model, or the images; what is finished is kept: the same command goes on",
            )


def named(failures: Iterable[Failure]) -> str:
    """The first of some samples with what happened to each, and how many more there are."""
    ranked = sorted(failures, key=lambda each: each.id)
    words = [f"sample {each.id} ({each.stage}: {each.happened})" for each in ranked[:NAMED]]
    return "; ".join(words) + (f"; and {len(ranked) - NAMED} more" if len(ranked) > NAMED else "")


def findings(failures: Sequence[Failure], eps: float, samples: int) -> tuple[Finding, ...]:
    """What a run says about its samples that failed; ``eps`` is its radius, ``samples`` how many it has."""
    if not failures:
        return ()
    lost = sum(each.eps <= eps for each in failures)
    higher = f"the robust accuracy may be up to {100 * lost / samples:.2g} points higher"
    return (
        Finding(
            check="samples failed",
            level="warning",
            saw=f"{len(failures)} of {samples} samples could not be finished: {named(failures)}",
            means=f"what cannot be evaluated counts as not robust: {higher}",
            remedy="mend the model, or make the images readable, and run the same command again: it tries these alone",
        ),
    )


def few(model: Model, source: Source) -> tuple[Tensor, Tensor]:
    """The first images that work, (n, C, H, W), n at most `FEW`, and the model's logits, (n, K)."""
    ids = np.asarray(source.ids)[:FEW]
    try:
        x, logits = _answered(model, source, ids)
        if bool(torch.isfinite(logits).all()):
            return x, logits
    except Exception:  # by an image that cannot be read, or by a foreign forward, which may raise anything
        pass
    ids = working(model, source, ids)
    if not len(ids):
        none = torch.zeros(0, *source.shape, dtype=model.dtype, device=model.device)
        return none, none.new_zeros(0, model.classes)
    return _answered(model, source, ids)


def working(model: Model, source: Source, ids: np.ndarray) -> np.ndarray:
    """Those of ``ids`` whose images can be read and whose logits are finite."""

    def answered(at: slice) -> np.ndarray:
        _, logits = _answered(model, source, ids[at])
        return ids[at][torch.isfinite(logits).all(1).cpu().numpy()]

    return np.concatenate([ids[:0], *halves(answered, len(ids), len(ids), lambda place, error: None).parts])


def _answered(model: Model, source: Source, ids: np.ndarray) -> tuple[Tensor, Tensor]:
    x, _ = tensors(source, ids, dtype=model.dtype, device=model.device)
    return x, engine.predict(model.module, x)
