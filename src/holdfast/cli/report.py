"""``holdfast report``."""

from __future__ import annotations

import json as json_
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.terminal import terminal


def report(*runs: Path, out: Path | None = None, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Write the report of one run again, or one page of several side by side.

    holdfast report runs/standard runs/robust --out both.html

    Parameters
    ----------
    runs
        Folders that audits wrote (answers in their explain/ join the page), or one that holdfast explain wrote.
    out
        The page; report.html in the folder of a single run unless given.
    json
        Print the page's path as JSON.
    """
    from holdfast.foundation.errors import BadValue

    if not runs:
        raise BadValue("no run is given", hint="name one or more folders that audits wrote")
    if out is None and len(runs) > 1:
        raise BadValue("several runs need a place for their page", hint="give --out page.html")
    if len(runs) == 1 and out is None and (runs[0] / "explain.json").exists():
        from holdfast.report.explained import write_explanation

        page = write_explanation(runs[0])
    else:
        page = write_report(runs, out or runs[0] / "report.html")
    if json:
        print(json_.dumps({"report": str(page)}))
    else:
        terminal().print(f"report: {page}", markup=False)
    return 0


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Renders the page; the drawing library is imported only now."""
    from holdfast.report.page import render

    return render(runs, out)
