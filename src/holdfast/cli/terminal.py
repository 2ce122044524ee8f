"""The terminal that commands write to."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def terminal(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: names and paths hold colons, brackets and numbers that are no markup."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def width(console: Console, table: Table) -> int:
    """How many characters a table takes with all its cells whole, whatever the terminal's width."""
    return console.measure(table, options=console.options.update_width(10_000)).maximum


def show_whole(console: Console, table: Table) -> None:
    """Prints a table with all its cells whole; the lines of a narrow terminal are broken by the terminal."""
    console.width = max(console.width, width(console, table))
    console.print(table)
