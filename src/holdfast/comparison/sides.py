"""A run folder as a comparison sees it: for every figure a number for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from holdfast.audit.defended.outcome import adaptive_stage, gathered
from holdfast.foundation.errors import BadFile, BadValue
from holdfast.records import certified, detected
from holdfast.records.comparison import Kind
from holdfast.records.conditions import ConditionsInfo
from holdfast.records.defended import OBLIVIOUS, DefendedInfo, attacked
from holdfast.records.schema import CLEAN, Finding, RunInfo
from holdfast.records.sequences import SequencesInfo, measured
from holdfast.records.store import RUN
from holdfast.report.corrupted import has_corruptions, read_corrupted, told
from holdfast.report.defended import has_defended, read_defence
from holdfast.report.perturbed import has_perturbations, read_perturbed
from holdfast.report.read import read

Info = RunInfo | ConditionsInfo | SequencesInfo | DefendedInfo


class Measure(NamedTuple):
    """A figure: its name, the radius where it has one, and which way is better."""

    name: str
    eps: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, eq=False)
class Side:
    """One kind of measurement of one run.

    Args:
        info: what was asked for.
        ids: the images, (n,) int64, ascending; None where the records hold them in the order of the data, without ids.
        labels: their classes, (n,) int64; None where the records do not hold them.
        values: figure -> a number for each image, (n,) float64 in [0, 1]; exactly 0 or 1 where an image is right or wrong.
        headline: the figure that the verdict is about; None where that is the mean of ``pooled``.
        pooled: those figures whose mean stands for all; ``pool``: what that mean is called, with their number as ``{}``.
        doubts: the warnings of the run.
    """

    info: Info
    ids: np.ndarray | None
    labels: np.ndarray | None
    values: Mapping[Measure, np.ndarray]
    headline: Measure | None
    doubts: tuple[Finding, ...]
    pooled: tuple[Measure, ...] = ()
    pool: str = ""


def sides(folder: Path) -> dict[Kind, Side]:
    """Everything in a run folder that can be compared.

    Raises:
        BadFile: there is no run, it is not finished, or its files are damaged.
        BadValue: it is of a kind that is not compared.
    """
    if not folder.is_dir():
        raise BadFile(f"there is no run folder {folder}", hint="give the folder that holdfast audit wrote with --out")
    readers: dict[Kind, tuple[bool, Callable[[Path], Side]]] = {
        "worst case": ((folder / RUN).exists(), _worst_case),
        "corruptions": (has_corruptions(folder), _corruptions),
        "perturbations": (has_perturbations(folder), _perturbations),
        "defence": (has_defended(folder), _defence),
    }
    found: dict[Kind, Side] = {kind: reader(folder) for kind, (there, reader) in readers.items() if there}
    if not found:
        for document, what in ((certified.DOCUMENT, "certificates"), (detected.SUMMARY, "detectors")):
            if (folder / document).exists():
                raise BadValue(
                    f"{folder} holds a run of {what}, which cannot be paired with another one",
                    hint="compare runs of holdfast audit: worst case, corruptions, perturbations, or a defence",
                )
        raise BadFile(
            f"{folder} holds no finished run", hint="run the same audit again to its end: it goes on where it stopped"
        )
    return found


def _worst_case(folder: Path) -> Side:
    run = read(folder)
    falls = np.array([np.inf if outcome.eps is None else outcome.eps for outcome in run.outcomes])
    values = {Measure("clean accuracy"): np.array([float(outcome.right) for outcome in run.outcomes])}
    for eps in sorted(run.info.curve):
        values[Measure("robust accuracy", eps)] = (falls > eps + 1e-12).astype(float)
    return Side(
        run.info,
        np.array([outcome.id for outcome in run.outcomes]),
        np.array([outcome.label for outcome in run.outcomes]),
        values,
        Measure("robust accuracy", run.info.eps),
        run.summary.warnings,
    )


def _corruptions(folder: Path) -> Side:
    run = read_corrupted(folder)
    levels = run.info.severities
    each = {
        Measure(f"accuracy under {told(name)}"): np.mean([run.seen.right((name, level)) for level in levels], axis=0)
        for name in run.info.corruptions
    }
    counted = tuple(Measure(f"accuracy under {told(name)}") for name in run.group("test"))
    values = {Measure("clean accuracy"): run.seen.right((CLEAN, 0)).astype(float), **each}
    pool = "accuracy, mean of {} corruptions"
    return Side(run.info, None, run.seen.label, values, None, run.summary.warnings, counted or tuple(each), pool)


def _perturbations(folder: Path) -> Side:
    run = read_perturbed(folder)
    flips, _, _ = measured(folder, run.info.data.n)
    values = {Measure(f"flips under {told(name)}", higher_is_better=False): share for name, share in flips.items()}
    pool = "flips, mean of {} perturbations"
    return Side(run.info, None, None, values, None, run.summary.warnings, tuple(values), pool)


def _defence(folder: Path) -> Side:
    run = read_defence(folder)
    lines = {(line.stage, line.first): line for line in attacked(folder)}
    seen = gathered(lines, run.info)
    clean = sorted((first, line.ids) for (stage, first), line in lines.items() if stage == CLEAN)
    adaptive = Measure("accuracy, adaptive attack", run.info.eps)
    values = {
        Measure("clean accuracy"): seen.right(CLEAN).mean(1),
        Measure("accuracy, oblivious attack", run.info.eps): seen.right(OBLIVIOUS).mean(1),
        adaptive: seen.right(adaptive_stage(lines, run.info)).mean(1),
    }
    ids = np.array([one for _, each in clean for one in each])
    return Side(run.info, ids, seen.label, values, adaptive, run.summary.warnings)
