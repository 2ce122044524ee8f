"""Floor 5: the command line. One file is one command; nothing here imports torch before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    from holdfast.cli.app import run

    sys.exit(run(sys.argv[1:]))
