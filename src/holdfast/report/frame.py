"""What all pages share: the templates, their style and scripts, a chart as a page shows it, and how a page is written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from holdfast.foundation import units
from holdfast.records.files import storing, write_atomic
from holdfast.report import charts, glossary, wording

NARROW, WIDE = 330, 760
"""Pixels: the two drawings of every chart, between which the style sheet chooses."""
HALF = 500
"""The wide drawing of a chart that stands beside another one."""
_HERE = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Figure:
    """A chart, drawn wide and narrow, and the text that stands for it where it cannot be seen."""

    wide: Markup
    narrow: Markup
    alt: str


def figure(draw: Callable[[int], Any], alt: str, *, wide: int = WIDE) -> Figure:
    """A chart, drawn twice by ``draw`` (a width in pixels -> a specification)."""
    # The SVG comes from our own specifications; Vega escapes the texts in it.
    wide_one, narrow_one = (Markup(charts.svg(draw(width))) for width in (wide, NARROW))
    return Figure(wide_one, narrow_one, alt)


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
    words = (
        *(wording.percent, wording.interval, wording.count, wording.duration, wording.moment),
        *(wording.chance, wording.setting, wording.points),
    )
    environment.filters.update({word.__name__: word for word in words}, eps=units.show)
    shared: dict[str, Any] = {"term": glossary.term, "class_name": wording.class_name, "script": None}
    environment.globals.update(shared)
    return environment


def write_page(template: str, out: Path, **context: Any) -> Path:
    """Fills a template and writes it to ``out``, whole or not at all; its folder is created where it is missing.

    Raises:
        StorageError: ``out`` cannot be written.
    """
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))
    text = environment().get_template(template).render(style=style, **context)
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, [text.encode("utf-8", errors="replace")])
    return out
