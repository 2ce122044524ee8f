"""Puts a page together: reads the runs, draws, fills the templates, writes one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from holdfast.foundation import units
from holdfast.foundation.errors import BadValue
from holdfast.records.files import storing, write_atomic
from holdfast.records.schema import Finding
from holdfast.records.store import RUN
from holdfast.report import charts, corrupted, defended, glossary, perturbed, pictures, samples, tally, wording
from holdfast.report.corrupted import Corrupted, has_corruptions, read_corrupted
from holdfast.report.defended import Defended, has_defended, read_defence
from holdfast.report.perturbed import Perturbed, has_perturbations, read_perturbed
from holdfast.report.read import FAILED, Run, read, told_apart

NARROW, WIDE = 330, 760
"""Pixels: the two drawings of every chart, between which the style sheet chooses."""
GALLERY = 24
"""The most gallery items of a page, over all its runs; half as many where the images are large."""
FOLDED = 6
"""A gallery of at most so many items is shown whole; of a longer one the second half is folded away."""
LONG = 20
"""With more classes than this the page shows the ``WEAKEST`` and folds the full table away."""
WEAKEST = 10

EXPLAIN = "explain"
"""The folder of an explanation in that of a run."""
_HERE = Path(__file__).parent / "templates"
_SEVERITY = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Figure:
    """A chart, drawn wide and narrow, and the text that stands for it where it cannot be seen."""

    wide: Markup
    narrow: Markup
    alt: str


@dataclass(frozen=True)
class Item:
    """One sample of the gallery: three images as data URIs, and the words below them."""

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


def render(folders: Sequence[Path], out: Path) -> Path:
    """Writes the report of one run, or of several side by side, as one HTML file, and returns its path.

    The page needs no network and no other file, and is a pure function of the folders' files: the same
    files give the same bytes. ``out`` appears whole or not at all.

    Args:
        folders: run folders, in the order of the page. The first is what the others are compared with.
        out: the file to write; its folder is created where it is missing.

    Raises:
        BadValue: no folder is given.
        BadFile: a run is missing, unfinished, damaged, or written by a newer holdfast.
        StorageError: ``out`` cannot be written.
    """
    if not folders:
        raise BadValue("no run folder is given", hint="give at least one folder that holdfast audit wrote")
    subjects = _read([Path(folder) for folder in folders])
    context = _context(subjects) | {"explained": _explained(folders)}
    text = environment().get_template("page.html").render(context)
    out = Path(out)
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, [text.encode("utf-8", errors="replace")])
    return out


@dataclass(frozen=True)
class _Subject:
    """A model of the page: its run in the worst case, over corruptions, perturbations, behind a defence, or several."""

    label: str
    run: Run | None
    weather: Corrupted | None
    films: Perturbed | None
    guard: Defended | None


def _read(folders: list[Path]) -> list[_Subject]:
    """The runs in the folders, under labels that differ."""
    subjects: list[_Subject] = []
    for folder in folders:
        weather = read_corrupted(folder) if has_corruptions(folder) else None
        films = read_perturbed(folder) if has_perturbations(folder) else None
        guard = read_defence(folder) if has_defended(folder) else None
        run = read(folder) if (folder / RUN).exists() or not (weather or films or guard) else None
        first = next(each for each in (run, weather, films, guard) if each)
        label = told_apart([*(subject.label for subject in subjects), first.label])[-1]
        subjects.append(
            _Subject(
                label,
                run and replace(run, label=label),
                weather and replace(weather, label=label),
                films and replace(films, label=label),
                guard and replace(guard, label=label),
            )
        )
    return subjects


def _explained(folders: Sequence[Path]) -> Any:
    """The explanation that lies beside the first of the runs that has one; None where none has."""
    from holdfast.report.explained import (  # which makes pages of its own with this file
        has_explanation,
        read_explanation,
    )

    places = [Path(folder) / EXPLAIN for folder in folders]
    return next((read_explanation(place) for place in places if has_explanation(place)), None)


def style() -> Markup:
    """The style sheet of every page."""
    return Markup((_HERE / "style.css").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Script:
    """A page's own script, and what its content security policy knows it by: no other may run."""

    text: Markup
    digest: str


def script(name: str) -> Script:
    """The script of that name. Every page can be read without its script."""
    text = (_HERE / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return Script(Markup(text), f"sha256-{digest}")


@cache
def environment() -> jinja2.Environment:
    """Where templates are found, and what each of them may use. Compiled once: that takes as long as to fill them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,  # for every template, whatever its ending: names in a run may hold markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (wording.percent, wording.interval, wording.count, wording.duration, wording.chance, wording.setting)
    environment.filters.update({word.__name__: word for word in words}, eps=units.show)
    helpers: dict[str, Any] = {"term": glossary.term, "script": None}
    environment.globals.update(helpers)
    return environment


def _context(subjects: list[_Subject]) -> dict[str, Any]:
    runs = [subject.run for subject in subjects if subject.run]
    weathered = [subject.weather for subject in subjects if subject.weather]
    along = [subject.films for subject in subjects if subject.films]
    guarded = [subject.guard for subject in subjects if subject.guard]
    labels = [subject.label for subject in subjects]
    pairs = [tally.pair(runs[0], run) for run in runs[1:]]
    return {
        "style": style(),
        "script": script("page.js"),
        "glossary": glossary.WORDS,
        "title": _title(labels),
        "subjects": subjects,
        "runs": runs,
        "weathered": weathered,
        "corrupted": corrupted.context(weathered, figure, wide=WIDE) if weathered else None,
        "along": along,
        "perturbed": perturbed.context(along, figure) if along else None,
        "guarded": guarded,
        "defended": defended.context(guarded, figure) if guarded else None,
        "headline": wording.headline,
        "weather_headline": wording.weather_headline,
        "film_headline": wording.film_headline,
        "means": wording.means,
        "change": wording.change,
        "measured_on": wording.measured_on,
        "points": charts.points,
        "findings": [(subject, _findings(subject)) for subject in subjects],
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
        "walls": [_wall(run, GALLERY // len(runs)) for run in runs],
        "browsers": [samples.browser(run) for run in runs],
        "tables": [_classes(group) for group in _grouped(runs, lambda run: run.info.data.class_names)],
        "colour": {label: place % len(charts.COLOURS) + 1 for place, label in enumerate(labels)},
        "class_name": class_name,
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


def _findings(subject: _Subject) -> list[Finding]:
    """What the checks saw, the gravest first, each once."""
    found: list[Finding] = []
    if subject.run:
        found += [*subject.run.summary.warnings, *subject.run.info.findings]
    if subject.weather:
        found += [*subject.weather.summary.warnings, *subject.weather.info.findings]
    if subject.films:
        found += [*subject.films.summary.warnings, *subject.films.info.findings]
    if subject.guard:
        found += [*subject.guard.summary.warnings, *subject.guard.info.findings]
    return sorted(dict.fromkeys(found), key=lambda each: _SEVERITY[each.level])


def figure(draw: Any, alt: str, *, wide: int = WIDE) -> Figure:
    """A chart, drawn twice by ``draw`` (a width in pixels -> a specification)."""
    # The SVG comes from our own specifications; Vega escapes the texts in it.
    wide_one, narrow_one = (Markup(charts.svg(draw(width))) for width in (wide, NARROW))
    return Figure(wide_one, narrow_one, alt)


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
        lambda width: charts.waterfall(run, width=width, colour=colour), alt, wide=WIDE if num == 1 else 500
    )


def _margins(runs: list[Run]) -> Figure:
    told = "; ".join(
        f"{run.label}: {sum(not o.held for o in run.outcomes)} of {len(run.outcomes)} below 0" for run in runs
    )
    return figure(lambda width: charts.margins(runs, width=width), f"Histogram of the smallest margins. {told}.")


def _wall(run: Run, limit: int) -> Wall:
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
        words = "held at every radius"
        if outcome.eps is not None:
            away = wording.distance(outcome.distance, levels=levels)
            words = "wrong without any change" if not outcome.right else f"found by {outcome.stage} at distance {away}"
            if outcome.stage == FAILED:
                words = "broken, though not by every stage: the model failed near it"
        items.append(
            Item(
                id=key,
                clean=pictures.data_uri(x0),
                adversarial=pictures.data_uri(x),
                difference=pictures.data_uri(pictures.difference(x0, x, factor=factor), smooth=False),
                label=class_name(names, outcome.label),
                predicted=class_name(names, outcome.predicted if outcome.eps is not None else outcome.label),
                found=words,
            )
        )
    return Wall(run, tuple(items), factor, shrunk, len(found.ids), open_ones)


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


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)
