"""The terminal that commands write to."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from holdfast.foundation.text import visible


class _Terminal(Console):
    """A console that obeys rich alone: a command to the terminal inside a text is shown, not sent."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=visible(part.text, keep="\n\t"))


def terminal(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: names and paths hold colons, brackets and numbers that are no markup."""
    return _Terminal(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def print_json(text: str) -> None:
    """Prints JSON on stdout, every sign beyond ASCII by its number: among them are some that terminals obey."""
    print(json.dumps(json.loads(text), indent=2))


def width(console: Console, table: Table) -> int:
    """How many characters a table takes with all its cells whole, whatever the terminal's width."""
    return console.measure(table, options=console.options.update_width(10_000)).maximum


def show_whole(console: Console, table: Table) -> None:
    """Prints a table with all its cells whole; the lines of a narrow terminal are broken by the terminal."""
    console.width = max(console.width, width(console, table))
    console.print(table)
