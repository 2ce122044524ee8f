"""``holdfast train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock

if TYPE_CHECKING:
    from holdfast.training.run import EpochRecord


def train(
    *,
    recipe: str = "pgd",
    net: str = "small_cnn",
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    data: str = "digits:train",
    split: str | None = None,
    limit: int | None = None,
    threat: str = "linf",
    eps: str,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    seed: int = 0,
    device: str = "cpu",
    out: Path,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Train a classifier, and keep the weights that were the most robust on held-out training images.

    The same command goes on where a stopped one was, to the same bits. Test data has no part in any choice.

    holdfast train --recipe pgd --net small_cnn --data digits:train --eps 0.15 --out runs/robust

    Parameters
    ----------
    recipe
        How: standard, pgd, n_fgsm, fgsm, ..., or the path of a TOML file.
    net
        Which net; see "holdfast list net".
    option
        A keyword argument of the net, as key=value. Repeat for more.
    data
        The training images: digits:train (the default), or a path.
    split
        Which part of the data.
    limit
        Use a seeded subset of that many images.
    threat
        What to train against: linf (the default), l2, l1.
    eps
        The radius: 8/255, 0.5.
    set
        A setting of the recipe, as key=value: epochs=30, lr=0.005, average=0.995. Repeat for more.
    seed
        Of the weights, the order of the images and every draw.
    device
        Where to compute.
    out
        The folder for weights, checkpoints and the log.
    quiet
        Show no progress.
    """
    from holdfast.audit.config import check_numbers
    from holdfast.audit.config import option as pair
    from holdfast.data.load import load as load_data
    from holdfast.foundation import registry
    from holdfast.training import recipes
    from holdfast.training.run import ROBUST
    from holdfast.training.run import train as run

    check_numbers(limit=limit, slots=None, seed=seed)
    allowed = registry.load("threat", threat)(eps)
    chosen = recipes.recipe(recipe, allowed, {"seed": seed, **dict(pair(text) for text in set or [])})
    source = load_data(data, split=split, limit=limit, seed=seed)
    progress, seen = terminal(stderr=True), []

    def watch(record: EpochRecord, epochs: int) -> None:
        seen.append(record)
        spent = record.seconds / record.epoch
        progress.print(
            f"epoch {record.epoch}/{epochs}: loss {record.loss:.3f}, held out: clean {100 * record.clean:.1f} %, PGD-10 "
            f"{100 * record.robust:.1f} %, FGSM {100 * record.single:.1f} %; {clock(record.seconds)}, about "
            f"{clock(spent * (epochs - record.epoch))} left",
            markup=False,
        )
        for finding in record.findings:
            progress.print(f"warning {finding.check}: {finding.saw}. {finding.means}. {finding.remedy}.", markup=False)

    if not quiet:
        progress.print(
            f"{net} on {len(source):,} images, a tenth (at most 1,000) held out; {recipe}: {chosen.epochs} epochs of "
            f"{type(chosen.objective).__name__}, {threat} {eps}",
            markup=False,
        )
    history = run(
        net,
        source,
        chosen,
        out,
        options=dict(pair(text) for text in option or []),
        device=device,
        command=shlex.join(["holdfast", *sys.argv[1:]]),
        watch=None if quiet else watch,
    )
    best = max(history, key=lambda each: (each.robust, each.clean))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, record in (("most robust", best), ("last", history[-1])):
        figures = f"clean {100 * record.clean:.1f} %", f"PGD-10 {100 * record.robust:.1f} %"
        table.add_row(name, f"epoch {record.epoch}", *figures)
    console = terminal()
    console.print(table)
    console.print(
        f"on held-out training images; PGD-10 is no verdict. Judge it: holdfast audit --model net:{net} --weights "
        f"{out / ROBUST} --eps {eps} --data ...",
        markup=False,
    )
    return 0
