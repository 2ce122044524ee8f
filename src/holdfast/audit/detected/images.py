"""Three sets of clean images that must not meet: those fitted on, those calibrated on, those under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from holdfast.audit.defended.options import HELD_OUT, pool_from
from holdfast.data.source import Source, Subset, subset
from holdfast.foundation.calibration import threshold
from holdfast.foundation.errors import BadValue
from holdfast.imaging.pool import Pool, contents

FITTED = 2000
"""How many training images detectors are fitted on, unless a number for each class is asked for."""
BATCH = 1000


@dataclass(frozen=True)
class Images:
    """``tested``, the images under test; ``held``, which thresholds are set on; ``fitted``, which detectors learn from."""

    tested: Source
    held: Source
    fitted: Pool


def divided(
    whole: Source,
    tested: Source,
    train: Source,
    *,
    false_alarms: float,
    per_class: int | None,
    seed: int,
    held: Source | None = None,
) -> Images:
    """The three sets, apart by the contents of their images.

    Args:
        whole: the data that ``tested`` is a part of: a seeded draw of the rest is held out, at most `HELD_OUT` images.
        train: images that the model was trained on.
        per_class: how many of each class are fitted on; None: `FITTED` in all.
        held: hold these out instead.

    Raises:
        BadData: an image under test lies among those fitted on.
        BadValue: a rate outside (0, 1), or too few images to set it on; the message says how many are needed.
    """
    if held is None:
        rest = Subset(whole, np.setdiff1d(np.asarray(whole.ids), np.asarray(tested.ids)))
        held = subset(rest, HELD_OUT, seed) if len(rest) else rest
    _check_enough(held, false_alarms)  # before the training images are read
    per_class = max(1, FITTED // len(train.class_names)) if per_class is None else per_class
    if per_class < 1:
        raise BadValue(f"per_class is {per_class}; every class needs an image", hint="for example 200")
    fitted = pool_from(train, per_class=per_class, seed=seed)
    known = set(fitted.digests)
    for ids in _parts(tested):
        images = _taken(tested, ids)
        fitted.check_apart(images)
        known.update(contents(images))
    # What occurs twice in the data is no new image: it is left out, whichever set it would be needed in.
    kept = [ids[[each not in known for each in contents(_taken(held, ids))]] for ids in _parts(held)]
    apart = Subset(held, np.concatenate(kept))
    _check_enough(apart, false_alarms)
    return Images(tested, apart, fitted)


def _check_enough(held: Source, false_alarms: float) -> None:
    if not 0 < false_alarms < 1:
        raise BadValue(f"false_alarms is {false_alarms}; it must lie between 0 and 1", hint="for example 0.05")
    try:
        threshold(np.zeros(len(held)), false_alarms=false_alarms)
    except BadValue as error:
        raise BadValue(
            f"{error.message}, and no more are left beside those under test",
            hint=f"{error.hint}: a smaller --limit leaves more, and a larger --false-alarms needs fewer",
        ) from None


def _parts(source: Source) -> list[np.ndarray]:
    ids = np.asarray(source.ids)
    return np.array_split(ids, -(-len(ids) // BATCH))


def _taken(source: Source, ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(source.take(ids).images))
