"""``holdfast list``."""

from __future__ import annotations

from rich.table import Table

from holdfast.audit.outlines import OUTLINES
from holdfast.cli.terminal import terminal
from holdfast.foundation import registry
from holdfast.foundation.errors import UnknownName
from holdfast.training.published import summaries, words


def list_(kind: str | None = None) -> int:
    """Name everything that holdfast has: attacks, threats, nets, data, objectives, plans, recipes.

    holdfast list attack

    Parameters
    ----------
    kind
        Only that kind.
    """
    kinds = (*registry.KINDS, "plan", "recipe")
    if kind is not None and kind not in kinds:
        raise UnknownName.among("kind", kind, kinds)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for one in registry.KINDS if kind is None else [kind] if kind in registry.KINDS else []:
        for entry in registry.entries(one):
            table.add_row(one, entry.name, entry.summary)
    if kind in (None, "plan"):
        for outline in OUTLINES.values():
            table.add_row("plan", outline.name, outline.about)
    if kind in (None, "recipe"):
        # Published figures only where they were asked for: they are long.
        for name, about in summaries().items():
            said = words(name) if kind else {}
            more = [f"{key}: {said[key]}" for key in ("source", "expected", "differs") if key in said]
            table.add_row("recipe", name, "\n".join([about, *more]))
    terminal().print(table)
    return 0
