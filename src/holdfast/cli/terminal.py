"""The terminal that commands write to."""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: names and paths hold colons, brackets and numbers that are no markup."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
