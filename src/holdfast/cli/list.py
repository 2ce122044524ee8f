"""``holdfast list``."""

from __future__ import annotations

from rich.table import Table

from holdfast.audit.outlines import OUTLINES
from holdfast.cli.terminal import terminal
from holdfast.foundation import registry
from holdfast.foundation.errors import UnknownName


def list_(kind: str | None = None) -> int:
    """Name everything that holdfast has: attacks, threats, nets, data, objectives, plans.

    holdfast list attack

    Parameters
    ----------
    kind
        Only that kind.
    """
    if kind is not None and kind not in (*registry.KINDS, "plan"):
        raise UnknownName.among("kind", kind, (*registry.KINDS, "plan"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for one in registry.KINDS if kind is None else [kind] if kind != "plan" else []:
        for entry in registry.entries(one):
            table.add_row(one, entry.name, entry.summary)
    if kind in (None, "plan"):
        for outline in OUTLINES.values():
            table.add_row("plan", outline.name, outline.about)
    terminal().print(table)
    return 0
