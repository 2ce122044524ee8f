"""``holdfast compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from holdfast.cli.terminal import print_json, show_whole, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.records.comparison import Comparison, Part

LISTED = 12
"""How many images on which the runs disagree are named on the terminal."""
LONGEST = 60
"""The most characters of a changed setting that the terminal shows."""


def compare(
    *runs: Path,
    out: Path | None = None,
    restrict: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Put finished runs beside the first of them, image by image: what differs, by how much, and what changed.

    holdfast compare runs/main runs/branch --out compare.html

    Parameters
    ----------
    runs
        Folders that audits wrote, on the same images. The first is what the others are compared with.
    out
        Write the comparison as a page, too: one HTML file that works offline.
    restrict
        Where the runs' data differ, read them again and compare on the images that are equal.
    json
        Print the comparison as JSON on stdout, and nothing else there.
    """
    from holdfast.comparison import compare as paired

    found = paired(runs, restrict=restrict)
    page = None
    if out is not None:
        from holdfast.report.compared import write_comparison  # the drawing library is imported only now

        page = write_comparison(found, out)
    console = terminal(stderr=json)
    if json:
        print_json(found.model_dump_json())
    else:
        show_comparison(console, found)
    if page is not None:
        console.print(f"page: {page}", markup=False)
    return 0


def show_comparison(console: Console, found: Comparison) -> None:
    """The tables of a comparison, its cautions, and what changed. The runs are called A, B, C, ..."""
    names = [letter(place) for place in range(len(found.runs))]
    for name, run in zip(names, found.runs):
        console.print(f"{name}  {run.label}, {run.folder}", markup=False)
    for part in found.parts:
        console.print(f"\n{part.kind}, {part.n:,} images that all runs have", markup=False)
        show_whole(console, _figures(part, names))
        _disagreements(console, part, names)
    console.print()
    for caution in found.cautions:
        console.print("[yellow]caution[/yellow] ", end="")
        console.print(f"{caution.text}.", markup=False)
    if not found.changes:
        console.print("nothing changed in model, data, plan, configuration or versions")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("changed", "", *names):
        table.add_column(head)
    for change in found.changes:
        values = ["none" if value is None else value for value in change.values]
        table.add_row(change.group, escape(change.what), *(escape(value[:LONGEST]) for value in values))
    show_whole(console, table)


def letter(place: int) -> str:
    """A, B, ..., Z, then numbers."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _figures(part: Part, names: list[str]) -> Table:
    from holdfast.report.wording import points

    tested = any(against.p_value is not None for row in part.rows for against in row.against)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("in %, with 95 % intervals")
    for name in names:
        table.add_column(name, justify="right")
    for name in names[1:]:
        table.add_column(f"{name} − A", justify="right")
        if tested:
            table.add_column(f"right in A only, {name} only", justify="right")
            table.add_column("p" if len(names) == 2 else "p (Holm)", justify="right")
    for row in part.rows:
        cells = [f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})" for rate in row.rates]
        for against in row.against:
            cells.append(points(against.difference))
            if tested:
                split = "" if against.p_value is None else f"{against.only_first}, {against.only_other}"
                cells += [split, "" if against.p_adjusted is None else f"{against.p_adjusted:.2g}"]
        table.add_row(escape(row.title), *cells, style="bold" if row.headline else None)
    return table


def _disagreements(console: Console, part: Part, names: list[str]) -> None:
    for place, name in enumerate(names[1:], start=1):
        for right, told in ((True, f"right in A, wrong in {name}"), (False, f"wrong in A, right in {name}")):
            ids = [flip.id for flip in part.flips if flip.right[0] is right and flip.right[place] is not right]
            if ids:
                shown = ", ".join(map(str, ids[:LISTED])) + (", ..." if len(ids) > LISTED else "")
                console.print(f"{told}, {part.headline.title}: {len(ids)} images, no. {shown}", markup=False)
