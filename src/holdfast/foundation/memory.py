"""How much memory this process has taken, and how much is left to take."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def peak() -> int | None:
    """The largest resident set of this process so far, in bytes; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB


def free(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that are free in the machine and in the container around this process; None where nothing says so (not Linux).

    ``proc``, ``groups``: where Linux tells about memory, and about control groups.
    """
    found = []
    with suppress(OSError, KeyError):
        found.append(1024 * _numbers(proc / "meminfo")["MemAvailable:"])
    for limit, usage in _GROUPS:
        with suppress(OSError, ValueError):  # not in such a group, or in one without a limit ("max")
            used, stat = int((groups / usage).read_text()), _numbers((groups / usage).parent / "memory.stat")
            cached = stat.get("inactive_file", 0) + stat.get(
                "active_file", 0
            )  # counted as used, and given up when asked
            found.append(int((groups / limit).read_text()) - used + cached)
    return min(found, default=None)


def _numbers(path: Path) -> dict[str, int]:
    """The first number behind each word that begins a line."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
