"""``holdfast theory``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from holdfast.cli.terminal import print_json, terminal
from holdfast.cli.watch import clock, watching_counts
from holdfast.foundation.errors import BadValue, Unbelievable, UnknownName

if TYPE_CHECKING:
    from holdfast.experiments.theory import Part, Progress


@dataclass(frozen=True)
class Prepared:
    """A theory before any work: its settings, fingerprints by the names of its data, and what computes its parts."""

    configuration: Mapping[str, Any]
    data: Mapping[str, str]
    run: Callable[[Progress], list[Part]]


def theory(
    name: str,
    *,
    data: str | None = None,
    test: str | None = None,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    out: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Set a theory beside samples and trained models: tables, figures, and sentences made of the numbers.

    odds: "Robustness may be at odds with accuracy" (Tsipras et al. 2019). toys: points in a plane before and after
    adversarial training, their squares searched whole by a grid. Each takes seconds on one core. Exit code 3 if anything
    contradicts the mathematics.

    holdfast theory odds --out runs/odds

    Parameters
    ----------
    name
        Which: odds or toys.
    data
        Of odds: images with a part to train on and one to test on: digits (the default), or the path of a folder. With
        --test, the training images alone. toys draws its own points.
    test
        Of odds: the test images, where --data has none.
    set
        A setting, as key=value: d=1000, p=0.9, radii=[0, 0.1]; of toys points=30, moons_eps=0.1. Repeat for more.
    out
        The folder for a table and a figure of each part, theory.md and theory.json.
    json
        Print theory.json on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.experiments.theory import INFO, MARKDOWN, sentence, write
    from holdfast.records.files import storing

    if name not in THEORIES:
        raise UnknownName.among("theory", name, THEORIES)
    prepared = THEORIES[name](set or [], data, test)
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with watching_counts(terminal(stderr=True), "parts", quiet=quiet) as watch:
        parts = prepared.run(watch or (lambda *step: None))
    command = shlex.join(["holdfast", *sys.argv[1:]])
    write(name, prepared.configuration, parts, out, command=command, data=prepared.data)
    console = terminal(stderr=json)
    if json:
        print_json((out / INFO).read_text(encoding="utf-8"))
    breaches = [f"{part.name}: {breach}" for part in parts for breach in part.breaches]
    for breach in breaches:
        console.print("[bold red]CONTRADICTION[/bold red] ", end="")
        console.print(f"{breach}.", markup=False)
    for part in parts:
        console.print(part.name, style="bold" if part.outcome.verdict.reproduced else "bold yellow", end=". ")
        console.print(sentence(part), markup=False)
    console.print(
        f"{clock(time.monotonic() - began)}. Written: {out}, {MARKDOWN}, {INFO}, a table and a figure of each part"
    )
    return Unbelievable.exit_code if breaches else 0


def _odds(pairs: Sequence[str], data: str | None, test: str | None) -> Prepared:
    from holdfast.data.load import load
    from holdfast.experiments.odds.run import run
    from holdfast.experiments.odds.settings import Odds
    from holdfast.experiments.theory import configured

    asked, source = configured(Odds, "odds", pairs), data or "digits"
    train = load(source, split="train" if test is None else None)
    judges = load(source, split="test") if test is None else load(test)
    return Prepared(
        dataclasses.asdict(asked) | {"eta": asked.population.eta},
        {each.name: each.fingerprint() for each in (train, judges)},
        lambda progress: run(asked, train, judges, progress),
    )


def _toys(pairs: Sequence[str], data: str | None, test: str | None) -> Prepared:
    import torch

    from holdfast.experiments.theory import configured
    from holdfast.experiments.toys.run import drawn, run
    from holdfast.experiments.toys.settings import Toys

    torch.set_num_threads(1)  # on points of two values threads only wait for one another
    for option, given in (("--data", data), ("--test", test)):
        if given is not None:
            raise BadValue(f"{option} is {given}; toys draws its own points", hint=f"leave {option} out")
    asked = configured(Toys, "toys", pairs)
    toys = drawn(asked)
    return Prepared(
        dataclasses.asdict(asked),
        {toy.name: toy.fingerprint() for toy in toys},
        lambda progress: run(asked, toys, progress),
    )


THEORIES: Mapping[str, Callable[[Sequence[str], str | None, str | None], Prepared]] = {"odds": _odds, "toys": _toys}
