"""The report: reads the runs, draws, and fills the template of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.records.schema import Finding
from holdfast.records.store import SUMMARY
from holdfast.report import (
    certified,
    charts,
    corrupted,
    defended,
    detected,
    gallery,
    glossary,
    perturbed,
    samples,
    tally,
    wording,
)
from holdfast.report.certified import Certificates, has_certificates, read_certificates
from holdfast.report.corrupted import Corrupted, has_corruptions, read_corrupted
from holdfast.report.defended import Defended, has_defended, read_defence
from holdfast.report.detected import Detectors, has_detectors, read_detectors
from holdfast.report.explained import Explained, has_explanation, read_explanation
from holdfast.report.frame import HALF, WIDE, Figure, figure, script, write_page
from holdfast.report.perturbed import Perturbed, has_perturbations, read_perturbed
from holdfast.report.read import Run, read, told_apart

LONG = 20
"""With more classes than this the page shows the ``WEAKEST`` and folds the full table away."""
WEAKEST = 10
EXPLAIN = "explain"
"""The folder of an explanation in that of a run."""
_SEVERITY = {"error": 0, "warning": 1, "note": 2}


def render(folders: Sequence[Path], out: Path) -> Path:
    """Writes the report of one run, or of several side by side, as one HTML file, and returns its path.

    The page needs no network and no other file, and is a pure function of the folders' files: the same
    files give the same bytes. ``out`` appears whole or not at all.

    Args:
        folders: run folders, in the order of the page. The first is what the others are compared with. Of each all
            finished parts are shown.
        out: the file to write; its folder is created where it is missing.

    Raises:
        BadValue: no folder is given.
        BadFile: a run is missing, unfinished, damaged, or written by a newer holdfast.
        StorageError: ``out`` cannot be written.
    """
    if not folders:
        raise BadValue("no run folder is given", hint="give at least one folder that holdfast audit wrote")
    folders = [Path(folder) for folder in folders]
    return write_page("page.html", Path(out), **_context(_read(folders)), explained=_explained(folders), unfolded=False)


@dataclass(frozen=True)
class _Subject:
    """A model of the page with what was measured of it, each None where it was not: in the worst case, under corruptions,
    along perturbations, behind a defence, certified behind noise, with detectors."""

    label: str
    run: Run | None
    weather: Corrupted | None
    films: Perturbed | None
    guard: Defended | None
    proof: Certificates | None
    alarms: Detectors | None

    @property
    def parts(self) -> list[Any]:
        """What there is."""
        parts = (self.run, self.weather, self.films, self.guard, self.proof, self.alarms)
        return [part for part in parts if part]

    @property
    def findings(self) -> list[Finding]:
        """What the checks saw, the gravest first, each once."""
        found = [each for part in self.parts for each in (*part.summary.warnings, *part.info.findings)]
        found += self.run.summary.notes if self.run else ()
        return sorted(dict.fromkeys(found), key=lambda each: _SEVERITY[each.level])


_PARTS = (
    (has_corruptions, read_corrupted),
    (has_perturbations, read_perturbed),
    (has_defended, read_defence),
    (has_certificates, read_certificates),
    (has_detectors, read_detectors),
)


def _read(folders: list[Path]) -> list[_Subject]:
    """The runs in the folders, under labels that differ."""
    subjects: list[_Subject] = []
    for folder in folders:
        parts: list[Any] = [load(folder) if has(folder) else None for has, load in _PARTS]
        # An audit that stopped does not keep the parts that are finished from being shown.
        run = read(folder) if (folder / SUMMARY).exists() or not any(parts) else None
        first = next(each for each in (run, *parts) if each)
        label = told_apart([*(subject.label for subject in subjects), first.label])[-1]
        labelled: list[Any] = [each and replace(each, label=label) for each in (run, *parts)]
        subjects.append(_Subject(label, *labelled))
    return subjects


def _explained(folders: Sequence[Path]) -> Explained | None:
    """The explanation that lies beside the first of the runs that has one; None where none has."""
    places = [folder / EXPLAIN for folder in folders]
    return next((read_explanation(place) for place in places if has_explanation(place)), None)


def _context(subjects: list[_Subject]) -> dict[str, Any]:
    runs = [subject.run for subject in subjects if subject.run]
    weathered = [subject.weather for subject in subjects if subject.weather]
    along = [subject.films for subject in subjects if subject.films]
    guarded = [subject.guard for subject in subjects if subject.guard]
    proved = [subject.proof for subject in subjects if subject.proof]
    alarmed = [subject.alarms for subject in subjects if subject.alarms]
    labels = [subject.label for subject in subjects]
    pairs = [tally.pair(runs[0], run) for run in runs[1:]]
    commands = dict.fromkeys(part.info.command for subject in subjects for part in subject.parts)
    return {
        "script": script("page.js"),
        "glossary": glossary.WORDS,
        "title": _title(labels),
        "subjects": subjects,
        "runs": runs,
        "weathered": weathered,
        "corrupted": corrupted.context(weathered) if weathered else None,
        "along": along,
        "perturbed": perturbed.context(along) if along else None,
        "guarded": guarded,
        "defended": defended.context(guarded) if guarded else None,
        "proved": proved,
        "certified": certified.context(proved) if proved else None,
        "alarmed": alarmed,
        "detected": detected.context(alarmed) if alarmed else None,
        "wording": wording,
        "points": charts.points,
        "commands": [command for command in commands if command],
        "pairs": [found for found in pairs if found],
        "unpaired": [run.label for run, found in zip(runs[1:], pairs) if not found],
        "curves": [_curve(group) for group in _grouped(runs, lambda run: run.summary.threat)],
        "distances": [
            _distances(group)
            for group in _grouped((run for run in runs if run.summary.distances), lambda run: run.summary.threat)
        ],
        "waterfalls": [_waterfall(run, place, len(runs)) for place, run in enumerate(runs)],
        "margins": _margins(runs) if runs else None,
        "unmeasured": [(run, sum(o.margin is None for o in run.outcomes)) for run in runs],
        "walls": [gallery.wall(run, gallery.MOST // len(runs)) for run in runs],
        "browsers": [samples.browser(run) for run in runs],
        "tables": [_classes(group) for group in _grouped(runs, lambda run: run.info.data.class_names)],
        "colour": {label: place % len(charts.COLOURS) + 1 for place, label in enumerate(labels)},
    }


def _title(labels: list[str]) -> str:
    if len(labels) == 1:
        return f"How robust is {labels[0]}?"
    if len(labels) == 2:
        return f"How robust are {labels[0]} and {labels[1]}?"
    return f"How robust are these {len(labels)} models?"


def _grouped(runs: Iterable[Run], key: Any) -> list[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _curve(group: list[Run]) -> tuple[list[Run], Figure]:
    told = "; ".join(
        f"{run.label}: "
        + ", ".join(f"{wording.percent(rate.value)} at {units.show(eps)}" for eps, rate in charts.points(run))
        for run in group
    )
    return group, figure(lambda width: charts.curve(group, width=width), f"Robust accuracy against eps. {told}.")


def _distances(group: list[Run]) -> Figure:
    told = "; ".join(
        f"{run.label}: "
        + ", ".join(f"{wording.percent(share)} within {far:.4g}" for share, far in run.summary.distances.quantiles)
        for run in group
        if run.summary.distances
    )
    return figure(lambda width: charts.distances(group, width=width), f"Distances of the nearest points found. {told}.")


def _waterfall(run: Run, place: int, num: int) -> tuple[Run, Figure]:
    told = ", ".join(f"{loss.stage} {loss.broken}" for loss in tally.losses(run))
    colour = charts.COLOURS[place % len(charts.COLOURS)]
    alt = f"What each stage broke of {len(run.outcomes)} images: {told}."
    return run, figure(
        lambda width: charts.waterfall(run, width=width, colour=colour), alt, wide=WIDE if num == 1 else HALF
    )


def _margins(runs: list[Run]) -> Figure:
    told = "; ".join(
        f"{run.label}: {sum(not o.held for o in run.outcomes)} of {len(run.outcomes)} below 0" for run in runs
    )
    return figure(lambda width: charts.margins(runs, width=width), f"Histogram of the smallest margins. {told}.")


def _classes(group: list[Run]) -> dict[str, Any]:
    """One table for runs over the same classes: per label one cell per run, and the weakest labels of a long table."""
    columns = [{row.label: row for row in tally.classes(run)} for run in group]
    labels = sorted({label for column in columns for label in column})
    rows = [(label, [column.get(label) for column in columns]) for label in labels]

    def weakness(row: tuple[int, list[tally.ClassTally | None]]) -> tuple[float, int]:
        rates = [cell.robust.value for cell in row[1] if cell]
        return sum(rates) / len(rates), row[0]

    weakest = sorted(rows, key=weakness)[:WEAKEST] if len(rows) > LONG else []
    return {"runs": group, "names": group[0].info.data.class_names, "rows": rows, "weakest": weakest}
