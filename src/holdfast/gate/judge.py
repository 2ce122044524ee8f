"""From a run and requirements to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.foundation import toml, units
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.gate.figures import FIGURES, RATIOS, Figure, Key, differences, figures
from holdfast.gate.requirement import Requirement, requirement
from holdfast.gate.verdict import Bound, Judged, Verdict

LARGEST_RATIO = 10
"""More than that nobody asks of a ratio: it is a per cent without its sign."""
_TOLERANCE = 1e-9  # radii come from the same parser, so that equal ones differ by rounding at most


class Gate(BaseModel):
    """What is required of a run: the keys of a gate's TOML file and of the command line.

    ``require``: see `holdfast.gate.requirement`. ``baseline``: the folder of the run that differences are taken to.
    ``bound``: ``value`` judges the figures themselves, ``interval`` the unfavourable ends of their 95 % intervals.
    ``accept``: checks whose doubts are known and accepted, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    require: tuple[str, ...] = ()
    baseline: str | None = None
    bound: Bound = "value"
    accept: tuple[str, ...] = ()


def gate(path: Path | None, given: Mapping[str, object]) -> Gate:
    """What a TOML file requires, with what is ``given`` on top: lists are joined, other values win (None: not given).

    Raises:
        BadFile: the file is missing or is no TOML.
        UnknownName: a key that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind, or nothing is required.
    """
    values = toml.read(path, "gate", 'require = ["robust_accuracy >= 0.45"]') if path is not None else {}
    for key in values:
        if key not in Gate.model_fields:
            raise UnknownName.among(f"key in {path}", key, Gate.model_fields)
    for key, value in given.items():
        if isinstance(value, (list, tuple)):
            values[key] = (*values.get(key, ()), *value)
        elif value is not None:
            values[key] = value
    try:
        asked = Gate.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{key} is {first.get('input')!r}: {first['msg'].lower()}", hint=f"correct {key}") from None
    if not asked.require:
        raise BadValue("nothing is required", hint='add a requirement such as "robust_accuracy >= 0.45"')
    return asked


def judge(folder: Path, asked: Gate) -> Verdict:
    """Holds a finished run against what is required of it.

    Raises:
        BadValue: a requirement that is none, or of a figure or a radius that the run does not have.
        UnknownName: a figure that does not exist.
        BadFile, PlanMismatch: a run is missing or damaged, or the baseline cannot be paired with it.
        Incomplete: the run, or the baseline, has not come to its end.
    """
    wanted = [requirement(text) for text in asked.require]
    for each in wanted:
        if each.measure not in FIGURES:
            raise UnknownName.among("figure", each.measure, FIGURES)
        # 45 would be met by no share, and missed by no error.
        if abs(each.wanted) > (LARGEST_RATIO if each.measure in RATIOS else 1):
            raise BadValue(
                f"{each.asked!r} asks for {each.wanted:g}, which no {each.measure} is",
                hint="write 0.45, or 45 % with the sign",
            )
    run = figures(folder)
    found, doubts = dict(run.found), run.doubts
    if any(each.measure.endswith("difference") for each in wanted):
        if asked.baseline is None:
            raise BadValue("a difference is required, and no baseline is given", hint="give --baseline RUN")
        paired = differences(Path(asked.baseline), folder)
        doubts += figures(Path(asked.baseline)).doubts + paired.doubts
        found |= paired.found
    doubts = tuple(dict.fromkeys(doubts))
    return Verdict(
        run=str(folder),
        name=run.name,
        baseline=asked.baseline or "",
        bound=asked.bound,
        judged=tuple(_judged(each, _found(each, found), asked.bound) for each in wanted),
        doubts=tuple(doubt for doubt in doubts if doubt.check not in asked.accept),
        accepted=tuple(doubt for doubt in doubts if doubt.check in asked.accept),
    )


def _found(wanted: Requirement, found: Mapping[Key, Figure]) -> Figure:
    """The figure that is required. Raises BadValue where the run does not have it."""
    mine = [(eps, figure) for (name, eps), figure in found.items() if name == wanted.measure]
    for eps, figure in mine:
        if eps == wanted.eps or (eps and wanted.eps and math.isclose(eps, wanted.eps, rel_tol=_TOLERANCE)):
            return figure
    if mine:
        radii = ", ".join(units.show(eps) for eps, _ in mine if eps is not None)
        raise BadValue(
            f"{wanted.asked!r}: the run has {wanted.measure} at {radii or 'no radius'}",
            hint=f"ask for one of them: {wanted.measure} at RADIUS",
        )
    raise BadValue(
        f"{wanted.asked!r}: the run does not have {wanted.measure}, which is the {FIGURES[wanted.measure]}",
        hint=f"it has {', '.join(dict.fromkeys(name for name, _ in found))}",
    )


def _judged(wanted: Requirement, figure: Figure, bound: Bound) -> Judged:
    end = figure.low if wanted.upwards else figure.high
    if bound == "interval" and end is None:
        raise BadValue(f"{wanted.measure} has no interval to judge", hint="judge values: --bound value")
    met = wanted.met(figure.value if bound == "value" or end is None else end)
    ends = [figure.value if each is None else each for each in (figure.low, figure.high)]
    return Judged(
        asked=wanted.asked,
        what=figure.what,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        met=met,
        clear=all(wanted.met(each) == met for each in ends),
    )
