"""What keeps the differences between runs from meaning what they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from holdfast.comparison.sides import Side
from holdfast.foundation import units
from holdfast.records.comparison import Caution, Change, Kind, Part
from holdfast.records.defended import DefendedInfo
from holdfast.records.schema import RunInfo


def cautions(
    kind: Kind, each: Sequence[Side], labels: Sequence[str], part: Part, differ: Sequence[Change]
) -> Iterator[Caution]:
    """What keeps the differences from meaning what they seem to."""
    for label, side in zip(labels, each):
        if side.doubts:
            said = ", ".join(dict.fromkeys(doubt.check for doubt in side.doubts))
            yield Caution(about="doubts", text=f"{label}: its own checks doubt its {kind} ({said})")
    if part.left_out or len({side.info.data.fingerprint for side in each}) > 1:
        said = f"{kind}: the data differ; compared are the {part.n} images that are equal in all runs"
        yield Caution(about="data", text=said)
    if kind == "worst case":
        infos = [cast(RunInfo, side.info) for side in each]
        yield from _searches(infos, labels)
    if kind == "defence":
        efforts = {(i.steps, i.restarts, i.budgets, i.evaluations) for i in (cast(DefendedInfo, s.info) for s in each)}
        if len(efforts) > 1:
            said = "defence: the runs differ in the effort of the attack; the weaker one flatters its run"
            yield Caution(about="search", text=said)
    if each[0].pooled and any(side.values.keys() != each[0].values.keys() for side in each):
        said = f"{kind}: the runs differ in their kinds; compared are those that all have"
        yield Caution(about="kinds", text=said)
    for place, label in enumerate(labels[1:], start=1):
        asked = [change for change in differ if change.group != "versions" and change.what != "model name"]
        if all(change.values[place] == change.values[0] for change in asked):
            said = f"{kind}: {label} is of the model, the data and the settings of {labels[0]}"
            yield Caution(about="same", text=f"{said}; what differs is rounding, or code that no fingerprint covers")


def _searches(infos: Sequence[RunInfo], labels: Sequence[str]) -> Iterator[Caution]:
    first = infos[0]
    for label, info in zip(labels[1:], infos[1:]):
        if (info.plan, info.stages, info.draws) != (first.plan, first.stages, first.draws):
            why = (
                "the model is the same: the difference is between the searches, and the lower figure is nearer the truth"
                if info.model.fingerprint == first.model.fingerprint
                else "part of the difference may come from the plans, as the weaker one leaves more images standing"
            )
            said = f"{labels[0]} was searched by the plan {first.plan}, {label} by {_other(info, first)}: {why}"
            yield Caution(about="search", text=said)
        if info.eps != first.eps:
            said = f"the headline of {labels[0]} is eps {units.show(first.eps)}, that of {label} {units.show(info.eps)}"
            yield Caution(about="kinds", text=said)


def _other(info: RunInfo, first: RunInfo) -> str:
    return info.plan if info.plan != first.plan else f"other stages of {info.plan}"
