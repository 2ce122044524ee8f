"""Progress: a live bar with an ETA in a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.audit.divided import Progress as Swept
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

    def told(step: Step) -> Told:
        note = f"{step.robust}/{step.all} unbroken · {clock(step.seconds)}, at most {clock(step.eta)} left"
        return Told(f"{label}{_stage(step)}", step.done, step.total, note)

    with _shown(console, told, quiet=quiet) as show:
        yield show


@contextmanager
def watching_conditions(
    console: Console, what: str, *, quiet: bool = False
) -> Iterator[Callable[[Swept], None] | None]:
    """A watcher for a run over ``what``, corruptions or perturbations; None where nothing is to be shown."""

    def told(step: Swept) -> Told:
        note = f"{step.condition} · {clock(step.seconds)}, about {clock(step.eta)} left"
        return Told(what, step.done, step.total, note)

    with _shown(console, told, quiet=quiet) as show:
        yield show


@contextmanager
def watching_counts(
    console: Console, what: str = "images", *, quiet: bool = False
) -> Iterator[Callable[[str, int, int], None] | None]:
    """A watcher that is called with a name, a count of ``what`` and the whole; None where nothing is to be shown."""
    began = time.monotonic()

    def told(step: tuple[str, int, int]) -> Told:
        name, done, total = step
        seconds = time.monotonic() - began
        left = seconds * (total - done) / done if done else None
        return Told(what, done, total, f"{name} · {clock(seconds)}, about {clock(left)} left")

    with _shown(console, told, quiet=quiet) as show:
        yield None if show is None else lambda *step: show(step)


class Told(NamedTuple):
    """A line of progress: of what, how much is done, and a note."""

    what: str
    done: int
    total: int
    note: str


@contextmanager
def _shown(console: Console, told: Callable[[Any], Told], *, quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    if quiet:
        yield None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None, note="")

            def show(step: Any) -> None:
                line = told(step)
                bar.update(task, description=line.what, completed=line.done, total=line.total, note=line.note)

            yield show
    else:
        last: dict[str, float] = {}

        def say(step: Any) -> None:
            line = told(step)
            due = time.monotonic() - last.setdefault(line.what, time.monotonic()) >= LINE_EVERY
            if not line.total or (line.done < line.total and not due):
                return
            last[line.what] = time.monotonic()
            console.print(f"{line.what}: {line.done}/{line.total}, {line.note}", markup=False)

        yield say


def _stage(step: Step) -> str:
    return step.stage if not step.eps else f"{step.stage} at eps {units.show(step.eps)}"
