"""Runs beside the first of them: figures, paired differences, tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from holdfast.comparison.cautions import cautions
from holdfast.comparison.changes import changes
from holdfast.comparison.matching import places
from holdfast.comparison.sides import Measure, Side, sides
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, PlanMismatch
from holdfast.foundation.stats import Interval, holm, mcnemar
from holdfast.probes.clustered import clustered, share
from holdfast.records.comparison import (
    Against,
    Caution,
    Compared,
    Comparison,
    Difference,
    Flip,
    Kind,
    Part,
    Row,
)
from holdfast.records.schema import Rate
from holdfast.report.read import told_apart

KINDS: tuple[Kind, ...] = ("worst case", "corruptions", "perturbations", "defence")


def compare(folders: Sequence[Path], *, restrict: bool = False) -> Comparison:
    """Pairs runs with the first of them, image by image.

    Every figure of a row is a mean over the images that all runs have: with Wilson's interval where an image is right or
    wrong, else Student's over images. Of a pair the difference has the interval of Agresti and Min (2005), or Student's of
    the differences, and McNemar's exact test, its p-values adjusted over the runs of the row by Holm's rule.

    Args:
        folders: of at least two finished runs.
        restrict: where the data of the runs differ, read them again and compare on the images that are equal.

    Raises:
        BadValue: fewer than two folders, or a kind of run that is not compared.
        PlanMismatch: nothing was measured in one way by all runs: threats, radii, corruptions or data differ.
        BadFile: a run is not finished, or damaged.
    """
    if len(folders) < 2:
        raise BadValue(f"{len(folders)} run is given, and a comparison needs two", hint="name two or more run folders")
    found = [sides(Path(folder)) for folder in folders]
    labels = told_apart([next(iter(each.values())).info.name for each in found])
    shared = [kind for kind in KINDS if all(kind in each for each in found)]
    if not shared:
        held = "; ".join(f"{label}: {', '.join(each)}" for label, each in zip(labels, found))
        raise PlanMismatch(
            f"the runs have no kind of measurement in common ({held})", hint="compare runs of one kind with one another"
        )
    parts, changed, told = [], [], []
    for kind in shared:
        each = [one[kind] for one in found]
        _comparable(kind, each, labels)
        parts.append(_part(kind, each, labels, restrict=restrict))
        differ = list(changes(kind, [side.info for side in each]))
        changed += [change for change in differ if change not in changed]
        told += cautions(kind, each, labels, parts[-1], differ)
    for label, each in zip(labels, found):
        alone = ", ".join(kind for kind in each if kind not in shared)
        if alone:
            told.append(Caution(about="kinds", text=f"{label} also holds {alone}, which not all runs have"))
    return Comparison(
        runs=tuple(
            Compared(
                label=label,
                folder=str(folder),
                model=next(iter(each.values())).info.model,
                doubts=len({doubt for kind in shared for doubt in each[kind].doubts}),
            )
            for label, folder, each in zip(labels, folders, found)
        ),
        parts=tuple(parts),
        changes=tuple(changed),
        cautions=tuple(dict.fromkeys(told)),
    )


def _comparable(kind: Kind, each: Sequence[Side], labels: Sequence[str]) -> None:
    """Refuses runs whose figures of one name are no figures of one thing. Raises PlanMismatch."""
    must: dict[Kind, tuple[str, ...]] = {
        "worst case": ("threat",),
        "corruptions": ("severities", "variant", "origin", "frost", "jpeg", "seed"),
        "perturbations": ("difficulty", "variant", "seed"),
        "defence": ("threat", "eps"),
    }
    for field in must[kind]:
        first = getattr(each[0].info, field)
        for label, side in zip(labels[1:], each[1:]):
            if (other := getattr(side.info, field)) != first:
                raise PlanMismatch(
                    f"{kind}: {field} is {_plain(first)} in {labels[0]} and {_plain(other)} in {label}: their figures mean "
                    "different things",
                    hint=f"run one of them again with the {field} of the other",
                )


def _plain(value: object) -> str:
    return units.show(value) if isinstance(value, float) else str(value)


def _part(kind: Kind, each: Sequence[Side], labels: Sequence[str], *, restrict: bool) -> Part:
    at = places(each, labels, kind, restrict=restrict)
    each = _pooled(kind, each, labels)
    measures = [measure for measure in each[0].values if all(measure in side.values for side in each)]
    if not any(measure.eps is not None for measure in measures) and kind == "worst case":
        radii = "; ".join(f"{label}: {', '.join(_radii(side))}" for label, side in zip(labels, each))
        raise PlanMismatch(
            f"the runs have no radius in common ({radii})",
            hint=f"run one again with --curve {' '.join(_radii(each[0]))}",
        )
    headline = _headline(each, measures)
    rows = tuple(_row(measure, each, at, headline=measure == headline) for measure in measures)
    values = np.array([side.values[headline][place] for side, place in zip(each, at)])
    flips = []
    if _whole(values):
        ids = at[0] if each[0].ids is None else each[0].ids[at[0]]
        labelled = each[0].labels
        for place in np.flatnonzero(values.min(0) != values.max(0)):
            flips.append(
                Flip(
                    id=int(ids[place]),
                    label=-1 if labelled is None else int(labelled[at[0][place]]),
                    right=tuple(bool(value) for value in values[:, place]),
                )
            )
    n = len(at[0])
    return Part(kind=kind, n=n, left_out=each[0].info.data.n - n, rows=rows, flips=tuple(flips))


def _pooled(kind: Kind, each: Sequence[Side], labels: Sequence[str]) -> Sequence[Side]:
    """The sides with the mean over those pooled figures that all have in front, as the headline."""
    if not each[0].pooled:
        return each
    common = [measure for measure in each[0].pooled if all(measure in side.pooled for side in each)]
    if not common:
        raise PlanMismatch(
            f"{' and '.join(labels)} have no {kind[:-1]} in common", hint=f"run them again with the same {kind}"
        )
    if len(common) == 1:
        return [replace(side, headline=common[0]) for side in each]
    mean = Measure(each[0].pool.format(len(common)), higher_is_better=common[0].higher_is_better)
    return [
        replace(
            side, headline=mean, values={mean: np.mean([side.values[one] for one in common], axis=0), **side.values}
        )
        for side in each
    ]


def _radii(side: Side) -> list[str]:
    return [units.show(measure.eps) for measure in side.values if measure.eps is not None]


def _headline(each: Sequence[Side], measures: Sequence[Measure]) -> Measure:
    """The first run's where all have it, else the largest common radius below it, else the first figure of all."""
    wanted = each[0].headline
    if wanted is None or wanted in measures:
        return wanted or measures[0]
    radii = [measure for measure in measures if measure.eps is not None]
    below = [measure for measure in radii if (measure.eps or 0) <= (wanted.eps or 0)]
    return below[-1] if below else (radii or measures)[0]


def _row(measure: Measure, each: Sequence[Side], at: Sequence[np.ndarray], *, headline: bool) -> Row:
    values = [side.values[measure][place] for side, place in zip(each, at)]
    against = [_against(values[0], other) for other in values[1:]]
    adjusted = holm([each.p_value for each in against if each.p_value is not None])
    if adjusted:
        against = [each.model_copy(update={"p_adjusted": p}) for each, p in zip(against, adjusted)]
    return Row(
        measure=measure.name,
        eps=measure.eps,
        headline=headline,
        higher_is_better=measure.higher_is_better,
        rates=tuple(_rate(share(each, 0.95)) for each in values),
        against=tuple(against),
    )


def _against(first: np.ndarray, other: np.ndarray) -> Against:
    change = other - first
    if not (_whole(first) and _whole(other)):
        return Against(difference=_difference(clustered(change, least=-1.0, most=1.0)))
    only_other, only_first = int((change > 0).sum()), int((change < 0).sum())
    test = mcnemar(only_other, only_first, n=len(change))
    return Against(
        difference=_difference(test.difference), only_first=only_first, only_other=only_other, p_value=test.p_value
    )


def _whole(values: np.ndarray) -> bool:
    """Whether every image is simply right or wrong."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _rate(found: Interval) -> Rate:
    return Rate(value=found.value, n=found.n, low=found.low, high=found.high)


def _difference(found: Interval) -> Difference:
    return Difference(value=found.value, low=found.low, high=found.high)
