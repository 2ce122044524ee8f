"""``holdfast theory``."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock, watching_counts
from holdfast.foundation.errors import Unbelievable, UnknownName

THEORIES = ("odds",)


def theory(
    name: str,
    *,
    data: str = "digits",
    test: str | None = None,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    out: Path,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Set a theory beside samples and trained models: tables, figures, and sentences made of the numbers.

    odds: "Robustness may be at odds with accuracy" (Tsipras et al. 2019). Seconds on one core. Exit code 3 if anything
    contradicts the mathematics by 5 standard errors.

    holdfast theory odds --out runs/odds

    Parameters
    ----------
    name
        Which: odds.
    data
        Images with a part to train on and one to test on: digits (the default), or the path of a folder. With --test, the
        training images alone.
    test
        The test images, where --data has none.
    set
        A setting, as key=value: d=1000, p=0.9, radii=[0, 0.1]. Repeat for more.
    out
        The folder for a table and a figure of each part, theory.md and theory.json.
    quiet
        Show no progress.
    """
    from holdfast.data.load import load as load_data
    from holdfast.experiments.odds.configure import configured
    from holdfast.experiments.odds.run import run
    from holdfast.experiments.odds.write import INFO, MARKDOWN, sentence, write
    from holdfast.records.files import storing

    if name not in THEORIES:
        raise UnknownName.among("theory", name, THEORIES)
    asked = configured(set or [])
    train = load_data(data, split="train" if test is None else None)
    judges = load_data(data, split="test") if test is None else load_data(test)
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with watching_counts(terminal(stderr=True), "parts", quiet=quiet) as watch:
        parts = run(asked, train, judges, watch or (lambda *step: None))
    sources = {source.name: source.fingerprint() for source in (train, judges)}
    write(asked, parts, out, command=shlex.join(["holdfast", *sys.argv[1:]]), data=sources)
    console = terminal()
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
