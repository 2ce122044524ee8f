"""``holdfast list``."""

from __future__ import annotations

import json as json_
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.audit.outlines import OUTLINES
from holdfast.cli.terminal import terminal
from holdfast.foundation import registry
from holdfast.foundation.errors import UnknownName
from holdfast.training.published import summaries, words


def list_(kind: str | None = None, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Name everything that holdfast has: attacks, threats, nets, data, objectives, plans, recipes.

    holdfast list attack

    Parameters
    ----------
    kind
        Only that kind.
    json
        Print the names and what they say of themselves as JSON.
    """
    kinds = (*registry.KINDS, "plan", "recipe")
    if kind is not None and kind not in kinds:
        raise UnknownName.among("kind", kind, kinds)
    found: list[tuple[str, str, str]] = []
    for one in registry.KINDS if kind is None else [kind] if kind in registry.KINDS else []:
        for entry in registry.entries(one):
            found.append((one, entry.name, entry.summary))
    if kind in (None, "plan"):
        for outline in OUTLINES.values():
            found.append(("plan", outline.name, outline.about))
    if kind in (None, "recipe"):
        # Published figures only where they were asked for: they are long.
        for name, about in summaries().items():
            said = words(name) if kind else {}
            more = [f"{key}: {said[key]}" for key in ("source", "expected", "differs") if key in said]
            found.append(("recipe", name, "\n".join([about, *more])))
    if json:
        print(json_.dumps([dict(zip(("kind", "name", "about"), row)) for row in found]))
        return 0
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for whole in (True, True, False):  # a name that was cut could not be typed
        table.add_column(no_wrap=whole)
    for row in found:
        table.add_row(*row)
    terminal().print(table)
    return 0
