"""The gallery of a run: adversarial images beside the clean ones."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.report import pictures, wording
from holdfast.report.read import FAILED, Outcome, Run

MOST = 24
"""The most items of a page, over all its runs; half as many where the images are large."""
FOLDED = 6
"""A gallery of at most so many items is shown whole; of a longer one the second half is folded away."""


@dataclass(frozen=True)
class Item:
    """One sample: three images as data URIs, and the words below them."""

    id: int
    clean: str
    adversarial: str
    difference: str
    label: str
    predicted: str
    found: str


@dataclass(frozen=True)
class Wall:
    """The gallery of one run; ``factor`` amplifies its differences, ``shrunk`` says that its images are larger,
    ``total`` is how many are stored, and ``open`` how many are shown without unfolding."""

    run: Run
    items: tuple[Item, ...]
    factor: int
    shrunk: bool
    total: int
    open: int


def wall(run: Run, limit: int) -> Wall:
    """At most ``limit`` of the stored images of a run, half as many where they are large."""
    found = run.gallery
    if found is None:
        return Wall(run, (), 1, False, 0, 0)
    shrunk = max(found.clean.shape[2:]) > pictures.SMALL
    limit = max(1, limit // 2 if shrunk else limit)
    clean, adversarial = found.clean[:limit], found.adversarial[:limit]
    open_ones = limit if limit <= FOLDED else max(FOLDED, limit // 2)
    factor = pictures.amplification(clean, adversarial)
    outcomes = {outcome.id: outcome for outcome in run.outcomes}
    names, levels = run.info.data.class_names, wording.in_levels(run.info.curve)
    items = []
    for key, x0, x in zip(found.ids.tolist(), clean, adversarial):
        outcome = outcomes[key]
        items.append(
            Item(
                id=key,
                clean=pictures.data_uri(x0),
                adversarial=pictures.data_uri(x),
                difference=pictures.data_uri(pictures.difference(x0, x, factor=factor), smooth=False),
                label=wording.class_name(names, outcome.label),
                predicted=wording.class_name(names, outcome.predicted if outcome.eps is not None else outcome.label),
                found=_found(outcome, levels=levels),
            )
        )
    return Wall(run, tuple(items), factor, shrunk, len(found.ids), open_ones)


def _found(outcome: Outcome, *, levels: bool) -> str:
    if outcome.eps is None:
        return "held at every radius"
    if outcome.stage == FAILED:
        return "broken, though not by every stage: the model failed near it"
    if not outcome.right:
        return "wrong without any change"
    return f"found by {outcome.stage} at distance {wording.distance(outcome.distance, levels=levels)}"
