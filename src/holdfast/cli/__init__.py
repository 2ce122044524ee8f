"""Floor 5: the command line. One file is one command; nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    # Idle OpenMP threads spin by default. On a machine that does anything else at the time they spin against the threads
    # they wait for: a search on 2 loaded cores took ten times as long. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from holdfast.cli.app import run

    sys.exit(run(sys.argv[1:]))
