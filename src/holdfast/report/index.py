"""A page of all runs in a folder: what each is, what came out, where its report lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.data.reading import reading
from holdfast.explain.store import INFO as EXPLAIN
from holdfast.explain.store import read_info as read_explanation_info
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, HoldfastError
from holdfast.records import conditions, defended, sequences
from holdfast.records.certified import DOCUMENT as CERTIFY
from holdfast.records.certified import read_certify_summary
from holdfast.records.detected import SUMMARY as DETECT
from holdfast.records.detected import read_detected
from holdfast.records.part import SUMMARY as PART_SUMMARY
from holdfast.records.schema import DataInfo, Rate
from holdfast.records.store import REPORT, RUN, SUMMARY, read_info, read_summary
from holdfast.report import wording
from holdfast.report.certified import half
from holdfast.report.frame import script, write_page
from holdfast.report.page import EXPLAIN as WHY

INDEX = "index.html"
DEPTH = 3
"""How many folders deep runs are looked for."""
MOST = 120
"""Characters of what is said of a damaged run."""


@dataclass(frozen=True)
class Entry:
    """A run, or one part of it; what has not been measured, yet or at all, is None, or no text.

    Args:
        kind: what was done, as the command that did it calls it.
        name: of the model.
        data: the images, and how many.
        asked: threat and radius, or what else was asked for; with the plan.
        created: when, ISO 8601.
        clean: accuracy without an attack or a corruption.
        outcome: the accuracy that the run is about; ``told``: the same in words, with its interval.
    """

    kind: str
    name: str
    data: str
    asked: str
    created: str
    clean: float | None = None
    outcome: float | None = None
    told: str = ""


@dataclass(frozen=True)
class Line:
    """An entry and where it lies: its ``folder``, and its ``report`` where there is one, both relative to the page."""

    entry: Entry
    folder: str
    report: str


def write_index(folder: Path) -> Path:
    """Writes ``index.html`` into ``folder``; returns its path.

    Raises:
        BadValue: it is no folder, or holds no run.
        StorageError: it cannot be written.
    """
    found = lines(folder)
    if not found:
        raise BadValue(f"no run lies in {folder}, down to {DEPTH} folders deep", hint="give the folder that holds them")
    return write_page("index.html", folder / INDEX, script=script("index.js"), lines=found)


def lines(folder: Path) -> list[Line]:
    """The runs in ``folder`` and in those below it, the latest first. A damaged one is said to be so.

    Raises:
        BadValue: it is no folder.
    """
    if not folder.is_dir():
        raise BadValue(f"{folder} is no folder", hint="give the folder that your runs lie in, for example runs")
    found = []
    for each in _folders(folder, DEPTH):
        report = (each / REPORT).relative_to(folder).as_posix() if (each / REPORT).exists() else ""
        found += [Line(entry, each.relative_to(folder).as_posix(), report) for entry in _entries(each)]
    return sorted(found, key=lambda line: (line.entry.created, line.folder), reverse=True)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    held = any((folder / file).is_file() for file, _ in _KINDS)
    below = (
        [folder / WHY] if held else sorted(folder.iterdir()) if depth else []
    )  # the rest of a run's folder is its own
    for each in below:
        if each.is_dir() and not each.is_symlink() and not each.name.startswith("."):
            yield from _folders(each, depth - 1)


def _entries(folder: Path) -> Iterator[Entry]:
    for file, read in _KINDS:
        if (folder / file).is_file():
            try:
                with reading(folder, what="a run"):
                    yield read(folder)
            except HoldfastError as error:
                yield Entry("damaged", folder.name, "", error.message[:MOST], "")


def _audit(folder: Path) -> Entry:
    info = read_info(folder)
    entry = Entry("audit", info.name, _images(info.data), f"{_within(info)}, {info.plan}", info.created)
    if not (folder / SUMMARY).exists():
        return entry
    summary = read_summary(folder)
    return replace(entry, **_rates(summary.clean_accuracy, summary.robust_accuracy))


def _corruptions(folder: Path) -> Entry:
    info = conditions.read_conditions(folder)
    asked = f"{len(info.corruptions)} corruptions, {info.origin}"
    entry = Entry("corruptions", info.name, _images(info.data), asked, info.created)
    if not (folder / conditions.FOLDER / PART_SUMMARY).exists():
        return entry
    summary = conditions.read_conditions_summary(folder)
    clean = 1 - summary.clean.error.value
    if summary.mean_error is None:
        return replace(entry, clean=clean)
    mean = summary.mean_error
    return replace(
        entry, clean=clean, outcome=1 - mean.value, told=_percent(1 - mean.value, 1 - mean.high, 1 - mean.low)
    )


def _perturbations(folder: Path) -> Entry:
    info = sequences.read_sequences(folder)
    entry = Entry(
        "perturbations", info.name, _images(info.data), f"{len(info.perturbations)} perturbations", info.created
    )
    if not (folder / sequences.FOLDER / PART_SUMMARY).exists():
        return entry
    flips = sequences.read_sequences_summary(folder).mean_flip_probability
    return replace(entry, told=f"flips {_percent(flips.value, flips.low, flips.high)}" if flips else "")


def _defence(folder: Path) -> Entry:
    info = defended.read_defended(folder)
    asked = f"{_within(info)}, behind {info.defence}"
    entry = Entry("defence", info.name, _images(info.data), asked, info.created)
    if not (folder / defended.FOLDER / PART_SUMMARY).exists():
        return entry
    summary = defended.read_defended_summary(folder)
    return replace(entry, **_rates(summary.clean.mean, summary.adaptive.mean))


def _certificate(folder: Path) -> Entry:
    summary = read_certify_summary(folder)
    asked, found = summary.asked, half(summary)
    entry = Entry("certify", asked.name, _images(asked.data), f"l2, smoothed with sigma {asked.sigma:g}", asked.created)
    return replace(entry, clean=summary.clean.value, told=f"half within {found.value:.3g}")


def _detectors(folder: Path) -> Entry:
    summary = read_detected(folder)
    info = summary.info
    asked = f"{_within(info)}, {', '.join(info.detectors)}"
    entry = Entry("detect", info.name, _images(info.data), asked, info.created)
    return replace(entry, **_rates(summary.undefended_clean, summary.undefended))


def _explanation(folder: Path) -> Entry:
    info = read_explanation_info(folder)
    images = f"{info.images.name}, {wording.count(info.images.n)}"
    questions = sorted(each.parent.name.replace("_", " ") for each in folder.glob("*/answer.json"))
    return Entry("explain", info.nets[0].model.name, images, f"{_within(info)}, {', '.join(questions)}", info.created)


_KINDS: tuple[tuple[str, Callable[[Path], Entry]], ...] = (
    (RUN, _audit),
    (f"{conditions.FOLDER}/{RUN}", _corruptions),
    (f"{sequences.FOLDER}/{RUN}", _perturbations),
    (f"{defended.FOLDER}/{RUN}", _defence),
    (CERTIFY, _certificate),
    (DETECT, _detectors),
    (EXPLAIN, _explanation),
)
"""What a folder holds where there is such a run, and how it is read."""


def _images(data: DataInfo) -> str:
    return f"{data.name}, {wording.count(data.n)}"


def _within(asked: Any) -> str:
    return f"{asked.threat} {units.show(asked.eps)}"


def _rates(clean: Rate, outcome: Rate) -> dict[str, Any]:
    told = f"{wording.percent(outcome.value)} ({wording.interval(outcome)})"
    return {"clean": clean.value, "outcome": outcome.value, "told": told}


def _percent(value: float, low: float, high: float) -> str:
    return f"{wording.percent(value)} ({100 * low:.1f}\u2013{wording.percent(high)})"
