"""Floor 5: the command line. One file is one command; nothing here imports torch before a command needs it."""

from __future__ import annotations

import ctypes
import io
import os
import sys

_TRIM, _MMAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def main() -> None:
    """Runs the command line and exits with its code."""
    # Idle OpenMP threads spin by default. On a machine that does anything else at the time they spin against the threads
    # they wait for: a search on 2 loaded cores took ten times as long. Read when torch is loaded, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sign that the terminal cannot show is no reason to end
    try:
        from holdfast.cli.app import run
    except KeyboardInterrupt:  # nothing is begun; `run` knows what to say later
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


def keep_freed_memory() -> None:
    """Lets the C library keep what was freed, up to 1 GiB, for the next array.

    glibc gives arrays of some megabytes back to the system at once, and the next one is paid for page by page: a third of
    the time of an audit over corruptions. The environment's own settings win; other C libraries are left alone.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: musl, macOS, Windows
        return
    mallopt(_MMAP, 1 << 25)  # the most that glibc takes
    mallopt(_TRIM, 1 << 30)
