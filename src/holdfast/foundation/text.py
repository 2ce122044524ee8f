"""Text of strangers, fit to be shown: names of classes, files and runs, and the messages of a model that fails."""

from __future__ import annotations

import unicodedata

_COMMANDS = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of signs that command: controls, formats, halves of pairs, breaks of lines and paragraphs."""


def visible(text: str, *, keep: str = "") -> str:
    """``text`` with U+FFFD in the place of each sign that a terminal obeys, or that YAML, XML or SVG cannot hold.

    Args:
        text: any.
        keep: signs that stay, such as a line's break.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign in keep or unicodedata.category(sign) not in _COMMANDS else "\N{REPLACEMENT CHARACTER}"
        for sign in text
    )
