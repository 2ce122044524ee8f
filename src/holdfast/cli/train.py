"""``holdfast train``."""

from __future__ import annotations

import json as json_
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from holdfast.cli.report import write_report
from holdfast.cli.show import show_findings, show_summary
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock, watching, watching_counts
from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.audit.ranks import Ranks
    from holdfast.data.source import Source
    from holdfast.records.schema import Summary
    from holdfast.threats.threat import Threat
    from holdfast.training.folder import EpochRecord
    from holdfast.training.plan import TrainingPlan
    from holdfast.training.recipe import Recipe
    from holdfast.training.run import Training, Watch
    from holdfast.training.watchdog import ProbeRecord

INCOMPLETE = 4

CURVE = "learning_curve.svg"


def train(
    *,
    recipe: str = "pgd",
    net: str = "small_cnn",
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    data: str = "digits:train",
    split: str | None = None,
    size: str | None = None,
    limit: int | None = None,
    extra: str | None = None,
    teacher: Path | None = None,
    helper: Path | None = None,
    test: str | None = None,
    audit: bool = True,
    threat: str = "linf",
    eps: str,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    seed: int = 0,
    device: str = "cpu",
    shard: Annotated[bool, Parameter(negative="")] = False,
    out: Path,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Train a classifier, keep the weights that were the most robust on held-out training images, and audit them.

    The same command goes on where a stopped one was, to the same bits. Test data has no part in any choice.

    holdfast train --recipe pgd --net small_cnn --data digits:train --eps 0.15 --out runs/robust

    Parameters
    ----------
    recipe
        How: standard, pgd, n_fgsm, trades, ..., or the path of a TOML file.
    net
        Which net; see "holdfast list net". "your_module:factory" for your own.
    option
        A keyword argument of the net, as key=value. Repeat for more.
    data
        The training images: digits:train (the default), or a path.
    split
        Which part of the data.
    size
        224 or 224x224: resize the shorter side of every image file to that / 0.875, then cut out the centre.
    limit
        Use a seeded subset of that many images.
    extra
        More training images, generated or collected; the recipe's extra_share says how many of a batch.
    teacher
        Weights of an earlier training, whose answers are the labels of the extra images.
    helper
        Weights of an earlier training by "standard", which the recipe hat needs.
    test
        The images of the final audit; by default the test part of the data, else those held out.
    audit
        End with an audit by the plan fast of at most 1,000 images; --no-audit leaves it out.
    threat
        What to train against: linf (the default), l2, l1; linf,l2,l1 for all of them (recipes mat and msd).
    eps
        The radius: 8/255, 0.5; as many as there are threats.
    set
        A setting of the recipe, as key=value: epochs=30, lr=0.005, options.sigma=0.5, attack.steps=10. Repeat for more.
    seed
        Of the weights, the order of the images and every draw.
    device
        Where to compute.
    shard
        Divide the net among the processes of torchrun, too, for one that does not fit on a device.
    out
        The folder for weights, checkpoints and the log.
    tensorboard
        Write event files for TensorBoard, too.
    json
        Print the most robust and the last epoch, and the summaries of the audit, as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.audit.config import check_numbers
    from holdfast.audit.config import option as pair
    from holdfast.audit.ranks import together
    from holdfast.data.load import load as load_data
    from holdfast.experiments.learning_curve import learning_curve
    from holdfast.models.device import placed
    from holdfast.records.files import write_atomic
    from holdfast.report.charts import svg
    from holdfast.training import recipes
    from holdfast.training.board import boarded
    from holdfast.training.checkpoint import restored
    from holdfast.training.relabelled import relabelled
    from holdfast.training.run import Watch
    from holdfast.training.run import train as run

    check_numbers(limit=limit, slots=None, seed=seed)
    allowed = _threat(threat, eps)
    chosen = recipes.recipe(recipe, allowed, {"seed": seed, **dict(pair(text) for text in set or [])})
    source = load_data(data, split=split, size=size, limit=limit, seed=seed)
    more = None if extra is None else load_data(extra, size=size)
    if more is not None and teacher is not None:
        more = relabelled(more, restored(teacher))
    ranks = together()
    place = placed(device)
    device = f"cuda:{ranks.local}" if ranks.world > 1 and place.type == "cuda" and ":" not in device else str(place)
    progress, first = terminal(stderr=True), ranks.rank == 0
    with _watching(progress, recipe, net, source, chosen, quiet=quiet or not first) as watch:
        found = run(
            net,
            source,
            chosen,
            out,
            options=dict(pair(text) for text in option or []),
            extra=more,
            helper=helper,
            device=device,
            command=shlex.join(["holdfast", *sys.argv[1:]]),
            watch=boarded(watch or Watch(), out) if tensorboard and first else watch,
            ranks=ranks,
            shard=shard,
        )
    console = terminal(stderr=json)
    console.quiet = not first
    _show(console, found, out)
    if len(found.epochs) > 1 and first:
        write_atomic(out / CURVE, [svg(learning_curve([out])).encode()])
        console.print(f"learning curve: {out / CURVE}", markup=False)
    audits: list[Summary] = []
    if found.epochs and allowed.eps and audit and not chosen.objective.outputs:
        judges = _test(test, data, split, size)
        audits = _audit(console, out, judges, source, chosen, device, ranks, quiet=quiet or not first)
    if json and first:
        best, last = (found.best, found.epochs[-1]) if found.epochs else (None, None)
        told = {"best": best, "last": last, "stopped": found.stopped, "audits": audits}
        print(json_.dumps(told, default=lambda each: each.model_dump(mode="json")))
    if found.stopped:
        console.print(f"stopped early: {found.stopped}", markup=False)
        return INCOMPLETE
    return 0


@contextmanager
def _watching(
    console: Console, recipe: str, net: str, source: Source, chosen: Recipe, *, quiet: bool
) -> Iterator[Watch | None]:
    """Who is told on the terminal: the plan first, a bar of steps, a line an epoch, what the watchdog sees."""
    if quiet:
        yield None
        return
    from holdfast.training.run import Watch

    said = ""

    def plan(found: TrainingPlan) -> None:
        console.print(
            f"{net}, {found.parameters:,} parameters, on {len(source):,} images, a tenth of them (at most 1,000) held out; "
            f"{recipe}: {chosen.epochs} epochs of {type(chosen.objective).__name__}, {chosen.threat.name} "
            f"{units.show(chosen.threat.eps)}",
            markup=False,
        )
        console.print(
            f"plan: {found.steps:,} steps of {found.passes:.0f} passes an image, about {clock(found.seconds)} besides what "
            f"looking at it takes, {found.bytes / 2**20:,.0f} MiB",
            markup=False,
        )

    def probe(record: ProbeRecord) -> None:
        nonlocal said
        checks = ", ".join(each.check for each in record.findings)
        if checks and (checks != said or record.repair):
            console.print(f"step {record.step}:", markup=False)
            show_findings(console, record.findings)
            if record.repair:
                console.print(f"back to step {record.back}; from there {record.repair}", markup=False)
        said = checks

    def epoch(record: EpochRecord, epochs: int) -> None:
        console.print(
            f"epoch {record.epoch}/{epochs}: loss {record.loss:.3f}, held out: clean {100 * record.clean:.1f} %, PGD-10 "
            f"{100 * record.robust:.1f} %, FGSM {100 * record.single:.1f} %; {clock(record.seconds)}",
            markup=False,
        )
        show_findings(console, tuple(each for each in record.findings if each.check not in said))

    with watching_counts(console, "steps") as count:
        assert count is not None
        yield Watch(plan=plan, step=lambda done, total: count("training", done, total), probe=probe, epoch=epoch)


def _show(console: Console, found: Training, out: Path) -> None:
    """The most robust epoch and the last one, on held-out images, and where the weights of the first are."""
    from holdfast.training.run import ROBUST

    if not found.epochs:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, record in (("most robust", found.best), ("last", found.epochs[-1])):
        figures = f"clean {100 * record.clean:.1f} %", f"PGD-10 {100 * record.robust:.1f} %"
        table.add_row(name, f"epoch {record.epoch}", *figures)
    console.print("on held-out training images, by which the weights were chosen:")
    console.print(table)
    console.print(f"weights: {out / ROBUST}", markup=False)


def _threat(names: str, eps: str) -> Threat:
    """The set of that name and radius; the union of several, both given as lists."""
    from holdfast.foundation import registry
    from holdfast.foundation.errors import BadValue
    from holdfast.threats.union import Union

    each, radii = names.split(","), eps.split(",")
    if len(each) != len(radii):
        raise BadValue(
            f"threat is {names!r} and eps {eps!r}: {len(each)} sets and {len(radii)} radii",
            hint="give a radius for every set: --threat linf,l2,l1 --eps 0.03,0.5,12",
        )
    found = [registry.load("threat", name)(radius) for name, radius in zip(each, radii)]
    return found[0] if len(found) == 1 else Union(*found)


def _test(test: str | None, data: str, split: str | None, size: str | None) -> Source | None:
    """The images of the audit: those asked for, or the test part of the training data; None where there is none."""
    from holdfast.data.load import load
    from holdfast.foundation.errors import HoldfastError

    if test is not None:
        return load(test, size=size)
    name, _, part = data.partition(":")
    if "train" not in (part, split):
        return None
    try:
        return load(name, split="test", size=size)
    except HoldfastError:
        return None


def _audit(
    console: Console,
    out: Path,
    test: Source | None,
    source: Source,
    chosen: Recipe,
    device: str,
    ranks: Ranks,
    *,
    quiet: bool,
) -> list[Summary]:
    """The audit of the most robust weights by all processes, and its page by the first; what came out, for each set."""
    from holdfast.audit.outlines import OUTLINES
    from holdfast.threats.union import parts
    from holdfast.training.folder import ROBUST
    from holdfast.training.run import parted
    from holdfast.training.verdict import FOLDER, robust_to_all, verdict

    sets = parts(chosen.threat)
    if any(each.name not in OUTLINES["fast"].threats for each in sets):
        console.print(f"no audit: the plan fast does not know {chosen.threat.name}", markup=False)
        return []
    images = parted(source, chosen.seed)[0] if test is None else test
    where = "held-out training images, which chose the weights" if test is None else images.name
    console.print(f"{out / ROBUST} on {where}, by the plan fast:", markup=False)
    folders = [out / (FOLDER if len(sets) == 1 else f"{FOLDER}-{each.name}") for each in sets]
    found: list[Summary] = []
    for each, folder in zip(sets, folders):
        with watching(terminal(stderr=True), label="audit, ", quiet=quiet) as watch:
            summary = verdict(out, images, each, folder, seed=chosen.seed, device=device, watch=watch, ranks=ranks)
        if summary is not None:
            show_summary(console, summary)
            found.append(summary)
    if ranks.rank:
        return []
    if len(folders) > 1:
        every = robust_to_all(folders)
        interval = f"{100 * every.low:.1f} to {100 * every.high:.1f} %, n = {every.n}"
        console.print(f"robust to all of them: {100 * every.value:.1f} %, {interval}", markup=False)
    console.print(f"report: {write_report(folders, folders[0] / 'report.html')}", markup=False)
    return found
