"""Progress: a live bar with an ETA in a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.audit.session import Progress as Step

LINE_EVERY = 10.0
"""Seconds between two plain lines of one stage."""


def clock(seconds: float | None) -> str:
    """Seconds as people say them: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def watching(console: Console, *, label: str = "", quiet: bool = False) -> Iterator[Callable[[Step], None] | None]:
    """A watcher for `holdfast.audit.run.run`; None where nothing is to be shown."""
    if quiet:
        yield None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=None, note="")

            def show(step: Step) -> None:
                bar.update(
                    task,
                    description=f"{label}{_stage(step)}",
                    completed=step.done,
                    total=step.total,
                    note=f"{step.robust}/{step.all} unbroken · {clock(step.seconds)}, at most {clock(step.eta)} left",
                )

            yield show
    else:
        last: dict[str, float] = {}

        def line(step: Step) -> None:
            stage = _stage(step)
            due = time.monotonic() - last.setdefault(stage, time.monotonic()) >= LINE_EVERY
            if not step.total or (step.done < step.total and not due):
                return
            last[stage] = time.monotonic()
            console.print(
                f"{label}{stage}: {step.done}/{step.total}, {step.robust}/{step.all} unbroken, "
                f"{clock(step.seconds)}, at most {clock(step.eta)} left",
                markup=False,
            )

        yield line


def _stage(step: Step) -> str:
    return step.stage if not step.eps else f"{step.stage} at eps {units.show(step.eps)}"
