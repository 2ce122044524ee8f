"""``holdfast audit`` with a clock in it: what the processes of a run did, and what each kind of work took.

python -m fleet.worker LOG audit --model ... (or the same behind torchrun): process R writes LOG.R.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.time()

import holdfast.audit.conclude  # noqa: E402
import holdfast.audit.preflight  # noqa: E402
import holdfast.audit.run  # noqa: E402
import holdfast.audit.session  # noqa: E402
import holdfast.cli.report  # noqa: E402
from holdfast.ascent import engine  # noqa: E402
from holdfast.audit import ranks  # noqa: E402
from holdfast.cli.app import run  # noqa: E402
from holdfast.records.shard import Shard  # noqa: E402
from holdfast.records.store import Store  # noqa: E402

IMPORTED = time.time()
CALLS: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
"""What was called -> calls, CPU seconds, wall seconds."""
HUNTS: list[dict[str, Any]] = []
TAKEN: dict[str, list[int]] = defaultdict(list)
"""Counter of chunks -> the values that this process drew."""


def timed(owner: Any, name: str) -> None:
    """Puts a clock around a function."""
    inner: Callable[..., Any] = getattr(owner, name)
    label = f"{getattr(owner, '__name__', owner).rpartition('.')[2]}.{name}"

    def outer(*args: Any, **kwargs: Any) -> Any:
        cpu, wall = time.process_time(), time.monotonic()
        try:
            return inner(*args, **kwargs)
        finally:
            call = CALLS[label]
            call[0] += 1
            call[1] += time.process_time() - cpu
            call[2] += time.monotonic() - wall

    setattr(owner, name, outer)


class Hunt(engine.Hunt):
    """The engine, every piece of its work timed: (rows, CPU seconds) of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log: dict[str, Any] = {"stage": self.stage, "slots": self.slots, "begun": [], "steps": [], "judged": []}
        HUNTS.append(self.log)

    def _begin(self, feed, places, fail):
        if not places:
            return super()._begin(feed, places, fail)
        return self._clocked("begun", len(places), lambda: super(Hunt, self)._begin(feed, places, fail))

    def _step(self, flight, fail):
        return self._clocked("steps", len(flight), lambda: super(Hunt, self)._step(flight, fail))

    def _judge(self, flight, fail):
        return iter(self._clocked("judged", len(flight), lambda: list(super(Hunt, self)._judge(flight, fail))))

    def _clocked(self, kind: str, rows: int, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = work()
        self.log[kind].append((rows, time.process_time() - began))
        return made


def main() -> None:
    log = Path(sys.argv[1])
    holdfast.audit.session.Hunt = Hunt  # type: ignore[misc]
    inner = ranks.Group.add

    def add(self: ranks.Group, name: str, amount: int) -> int:
        value = inner(self, name, amount)
        if name.startswith("taken"):
            TAKEN[name].append(value)
        return value

    ranks.Group.add = add  # type: ignore[method-assign]
    for owner, name in (
        (ranks.Group, "add"),
        (ranks.Group, "gather"),
        (Store, "append"),
        (Store, "take_over"),
        (Shard, "append"),
        (Shard, "hand_over"),
        (Shard, "take_over"),
        (holdfast.audit.session.Session, "clean"),
        (holdfast.audit.session.Session, "past"),
        (holdfast.audit.session.Session, "stage"),
        (holdfast.audit.preflight, "examined"),
        (holdfast.audit.run, "conclude"),
        (holdfast.cli.report, "write_report"),
    ):
        timed(owner, name)
    code = run(sys.argv[2:])
    rank = ranks.os.environ.get("RANK", "0")
    log.with_name(f"{log.name}.{rank}.json").write_text(
        json.dumps(
            {
                "code": code,
                "started": STARTED,
                "imported": IMPORTED,
                "ended": time.time(),
                "cpu": time.process_time(),
                "calls": CALLS,
                "hunts": HUNTS,
                "taken": TAKEN,
            }
        )
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
