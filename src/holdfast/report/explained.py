"""A page, or a part of one, about an explanation: what is read for it, and what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from holdfast.data.reading import reading
from holdfast.experiments.configure import validated
from holdfast.experiments.outcome import head, shown
from holdfast.explain.contradictions import contradictions
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Probe
from holdfast.explain.questions.gradients_figures import coloured
from holdfast.explain.questions.plane_colours import coloured as by_class
from holdfast.explain.questions.plane_colours import regions
from holdfast.explain.run import Explanation
from holdfast.explain.store import CASES, ExplainInfo, answered, cases, portrayed, read_info
from holdfast.foundation import registry
from holdfast.report.charts import svg
from holdfast.report.frame import environment, write_page
from holdfast.report.pictures import data_uri

WIDE = 6
"""Columns of a table from which on it is laid on its side, if it has fewer rows."""


@dataclass(frozen=True)
class Panel:
    """A question with its answer and its drawings."""

    name: str
    question: str
    found: Found
    figures: Sequence[tuple[Figure, Markup]]
    red: bool

    def laid(self, table: Table) -> list[list[str]]:
        """A table in words, headings first; a wide one on its side, so that its nets stand beside one another."""
        rows = [[head(column, cell) for column, cell in zip(table.columns, table.rows[-1])]]
        rows += [[shown(column, cell) for column, cell in zip(table.columns, row)] for row in table.rows]
        return [list(row) for row in zip(*rows)] if len(table.columns) > max(WIDE, len(rows)) else rows


@dataclass(frozen=True)
class Portrait:
    """An image, and for each net its gradient and the slice around it, as data URIs, and the class that it becomes."""

    image: str
    gradients: Mapping[str, str]
    slices: Mapping[str, str]
    becomes: Mapping[str, str]


@dataclass(frozen=True)
class Explained:
    """A whole explanation, as a page takes it: ``net`` is what the model is called, ``info`` what a folder says, ``colours``
    those of the classes in the portraits."""

    net: str
    info: ExplainInfo | None
    panels: Sequence[Panel]
    breaches: tuple[str, ...]
    cases: Sequence[Mapping[str, Any]]
    portraits: Mapping[int, Portrait]
    colours: Mapping[str, str]


def has_explanation(folder: Path) -> bool:
    """Whether there is an explanation in the folder, with a case file, which is written last."""
    return (folder / CASES).exists()


def read_explanation(folder: Path) -> Explained:
    """The explanation in ``folder``, its figures drawn again from what was found. Raises BadFile."""
    panels, found, info = [], [], read_info(folder)
    with reading(folder, what="an explanation"):  # whatever its arrays and tables lead the drawing to
        for name, (answer, each) in answered(folder).items():
            probe = validated(registry.load("probe", name), answer.settings, name)
            panels.append(_panel(name, probe, each))
            found.append(each)
        drawn, colours = _portraits(portrayed(folder), info)
    return Explained(info.nets[0].name, info, panels, contradictions(found), cases(folder), drawn, colours)


def piece(explanation: Explanation) -> str:
    """An explanation as a piece of a page, with the page's style but without its frame."""
    panels = [_panel(name, probe, explanation.answers[name]) for name, probe in explanation.probes.items()]
    explained = Explained("the model", None, panels, explanation.breaches, explanation.cases, {}, {})
    return environment().get_template("explained.html").render(explained=explained, unfolded=True)


def write_explanation(folder: Path) -> Path:
    """Writes ``report.html`` into the folder of an explanation: one file, which loads nothing and runs no script.

    Raises:
        BadFile: the explanation is damaged.
        StorageError: it cannot be written.
    """
    return write_page("explained_page.html", folder / "report.html", explained=read_explanation(folder), unfolded=True)


def _panel(name: str, probe: Probe, found: Found) -> Panel:
    figures = [(figure, Markup(svg(figure.chart))) for figure in probe.draw(found)]  # Vega escapes its texts
    return Panel(name, probe.question, found, figures, bool(contradictions([found])))


def _portraits(found: Mapping[str, np.ndarray], info: ExplainInfo) -> tuple[dict[int, Portrait], dict[str, str]]:
    """The portraits by the ids of their images, and the colour of each class in all of them."""
    if not found:
        return {}, {}
    nets, names = [net.name for net in info.nets], info.classes
    colours = by_class([found[f"{net}/classes"] for net in nets], names)
    drawn = {}
    for place, one in enumerate(found["ids"].tolist()):
        slices = {
            net: regions(found[f"{net}/classes"][place], colours, found[f"{net}/outside"][place]).transpose(2, 0, 1)
            / 255
            for net in nets
        }
        drawn[one] = Portrait(
            data_uri(found["images"][place]),
            {net: data_uri(coloured(found[f"{net}/gradient"][place])) for net in nets},
            {net: data_uri(each, smooth=False) for net, each in slices.items()},
            {net: names[int(found[f"{net}/becomes"][place])] for net in nets},
        )
    return drawn, {names[one]: colour for one, colour in colours.items()}
