"""``holdfast experiment``."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.cli.terminal import print_json, show_whole, terminal
from holdfast.cli.watch import clock, watching_counts

if TYPE_CHECKING:
    from holdfast.experiments.outcome import Outcome


def experiment(
    name: str,
    *,
    data: str = "digits",
    test: str | None = None,
    config: Path | None = None,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    device: str = "cpu",
    out: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Run an experiment of the literature: a table, a figure, and whether its shape came out.

    It goes on where a stopped one was: no training is repeated. Minutes on one core, unless it is asked for more.

    holdfast experiment fgsm_collapse --data digits --out runs/collapse

    Parameters
    ----------
    name
        Which; see "holdfast list experiment".
    data
        Images with a part to train on and one to test on: digits (the default), or the path of a folder. With --test, the
        training images alone.
    test
        The test images, where --data has none.
    config
        A TOML file with settings of the experiment; what --set says wins.
    set
        A setting of the experiment, as key=value: steps=2000, eps=8/255, settings.flip=true. Repeat for more.
    device
        Where to compute.
    out
        The folder for trainings, audits, table.csv, table.md, figure.svg, figure.png and experiment.json.
    json
        Print experiment.json on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.data.load import load as load_data
    from holdfast.experiments.configure import configured
    from holdfast.experiments.lab import Lab
    from holdfast.experiments.write import INFO, WRITTEN, sentence, write
    from holdfast.records.files import storing

    chosen = configured(name, config, set or [])
    train = load_data(data, split="train" if test is None else None)
    judges = load_data(data, split="test") if test is None else load_data(test)
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with watching_counts(terminal(stderr=True), "percent of the training", quiet=quiet) as watch:
        lab = Lab(train, judges, out, device, shlex.join(["holdfast", *sys.argv[1:]]), watch or (lambda *step: None))
        outcome = chosen.run(lab)
    write(chosen, outcome, lab)
    console = terminal(stderr=json)
    if json:
        print_json((out / INFO).read_text(encoding="utf-8"))
    show_whole(console, _table(outcome))
    console.print(outcome.caption, markup=False)
    for line in chosen.published:
        console.print(f"literature: {line}", markup=False)
    console.print(sentence(outcome), markup=False)
    console.print(f"{clock(time.monotonic() - began)}. Written: {out}, {', '.join(WRITTEN)}", markup=False)
    return 0


def _table(outcome: Outcome) -> Table:
    from holdfast.experiments.outcome import head, shown

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, cell in zip(outcome.columns, outcome.rows[-1]):
        table.add_column(head(column, cell), justify="left" if isinstance(cell, str) else "right", no_wrap=True)
    for row in outcome.rows:
        table.add_row(*(shown(column, cell) for column, cell in zip(outcome.columns, row)))
    return table
