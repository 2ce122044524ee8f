"""Which images of two runs are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.comparison.sides import Info, Side
from holdfast.data.load import load
from holdfast.data.source import Source, unit_images
from holdfast.foundation.errors import BadData, BadFile, PlanMismatch
from holdfast.records.comparison import Kind

_CHUNK = 512
_ASK = (
    "compare runs on the same images, or give --restrict: it reads the data again and keeps the images that are equal"
)


def places(sides: Sequence[Side], labels: Sequence[str], kind: Kind, *, restrict: bool) -> list[np.ndarray]:
    """For each side the places of the images that all have, in one order; each (n,) int64.

    Images are the same if their data have one fingerprint and they have one id. With ``restrict`` the data may differ: they
    are read again, must have the fingerprints that the runs wrote, and an image is the same where its pixels are equal.

    Raises:
        PlanMismatch: the data differ, or have no image in common.
        BadFile: two runs on the same data do not agree about labels or images.
    """
    prints = [side.info.data.fingerprint for side in sides]
    if len(set(prints)) == 1:
        given = [np.arange(side.info.data.n) if side.ids is None else side.ids for side in sides]
        equal = None
    else:
        other = next(place for place, each in enumerate(prints) if each != prints[0])
        if not restrict:
            raise PlanMismatch(
                f"{labels[0]} was measured on {_said(sides[0].info)}, {labels[other]} on {_said(sides[other].info)}",
                hint=_ASK,
            )
        if any(side.ids is None for side in sides):
            raise PlanMismatch(
                f"the data of {labels[0]} and {labels[other]} differ, and runs over {kind} hold no ids of images",
                hint="run them again on the same data",
            )
        given = [side.ids for side in sides if side.ids is not None]
        equal = _equal([_again(side.info, label) for side, label in zip(sides, labels)])
    common = given[0]
    for ids in given[1:]:
        common = np.intersect1d(common, ids)
    if equal is not None:
        common = np.intersect1d(common, equal)
    if not len(common):
        raise PlanMismatch(f"{' and '.join(labels)} have no image in common", hint="run them again on the same data")
    found = [np.searchsorted(ids, common) for ids in given]
    for label, side, place in zip(labels[1:], sides[1:], found[1:]):
        first, other = sides[0].labels, side.labels
        if first is not None and other is not None and not np.array_equal(first[found[0]], other[place]):
            raise BadFile(
                f"{labels[0]} and {label} give different labels to the same images",
                hint="one of the folders was changed, or its data were: run it again",
            )
    return found


def _said(info: Info) -> str:
    return f"{info.data.n} images of {info.data.name} ({info.data.fingerprint})"


def _again(info: Info, label: str) -> Source:
    """The data of a run, read again. Raises PlanMismatch where they cannot be, or are no longer those."""
    asked = info.request
    if "data" not in asked:
        raise PlanMismatch(f"{label} was run from Python, and its data cannot be read again", hint="run it by command")
    part = {"split": asked.get("split"), "size": asked.get("size")}
    source = load(asked["data"], **part, limit=asked.get("limit"), seed=asked.get("seed", 0))
    if source.fingerprint() != info.data.fingerprint:
        raise PlanMismatch(
            f"the data of {label} are no longer those that it was measured on", hint="run it again on the data of today"
        )
    return source


def _equal(sources: Sequence[Source]) -> np.ndarray:
    """The ids under which all sources have the same pixels and the same label."""
    common = np.asarray(sources[0].ids)
    for source in sources[1:]:
        if tuple(source.shape) != tuple(sources[0].shape):
            raise BadData("the images of the runs differ in size", hint="run them again on the same data")
        common = np.intersect1d(common, np.asarray(source.ids))
    kept = []
    for start in range(0, len(common), _CHUNK):
        ids = common[start : start + _CHUNK]
        batches = [source.take(ids) for source in sources]
        same = np.ones(len(ids), dtype=bool)
        for batch in batches[1:]:
            differ = unit_images(batches[0].images) != unit_images(batch.images)
            same &= ~differ.reshape(len(ids), -1).any(1) & (batches[0].labels == batch.labels)
        kept.append(ids[same])
    return np.concatenate(kept) if kept else common
