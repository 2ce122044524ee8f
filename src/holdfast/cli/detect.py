"""``holdfast detect``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from holdfast.cli.report import write_report
from holdfast.cli.show import show_findings
from holdfast.cli.subject import Subject, allowed, load, train_part
from holdfast.cli.terminal import print_json, show_whole, terminal
from holdfast.cli.watch import clock, watching_conditions
from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.audit.detected.run import Estimate
    from holdfast.data.source import Source
    from holdfast.records.detected import DetectedSummary
    from holdfast.records.schema import Rate


def detect(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    eps: str | None = None,
    threat: str | None = None,
    detector: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    detector_option: Annotated[list[str] | None, Parameter(negative="")] = None,
    train: str | None = None,
    train_per_class: int | None = None,
    false_alarms: float = 0.05,
    steps: int = 20,
    restarts: int = 1,
    evaluations: int = 5,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Measure detectors of adversarial examples, against an attack that ignores them and one that knows them.

    ROC curves and AUCs, thresholds for a stated rate of false alarms, and what the classifier is worth that rejects what is
    flagged, beside the classifier without a detector. On 200 images unless --limit says otherwise; thresholds are set on
    500 of the others, at most. The same command goes on where a stopped run was, and only reads a finished one.

    holdfast detect --model net:small_cnn --weights my.safetensors --data digits --eps 0.1

    Parameters
    ----------
    eps
        The radius of both attacks and of the noise: 8/255, 0.5.
    threat
        What an adversary may do: linf (the default), l2 or l1.
    detector
        Which; see "holdfast list detector". All that need nothing but the model and training images, unless given.
    detector_option
        A setting of a detector, as NAME.KEY=VALUE: energy.temperature=10. Repeat for more.
    train
        Images that the model was trained on, which detectors learn from: a name or a path; its train part where there is
        one. The train part of --data unless given.
    train_per_class
        How many of them of each class; 2,000 in all unless given.
    false_alarms
        The share of clean images that a threshold may flag.
    steps
        Of each search.
    restarts
        Of each search.
    evaluations
        Fresh ones of each image, by detectors that draw.
    out
        The folder for detect.json, table.csv, roc.csv, figure.png, figure.svg and report.html; one under runs/ unless given.
    json
        Print detect.json on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    config = subject.configured({"threat": threat, "eps": eps, "out": None if out is None else str(out)})
    from holdfast.audit.config import DEFENDED, option
    from holdfast.audit.detected.api import describe_detected, evaluate_detected
    from holdfast.audit.detected.images import divided
    from holdfast.audit.detected.options import built, suited
    from holdfast.audit.detected.run import Subject as Tested
    from holdfast.audit.ranks import alone
    from holdfast.data.load import load as load_data
    from holdfast.records.store import REPORT
    from holdfast.report.detected import WRITTEN, write

    alone("holdfast detect")
    within = allowed(config)
    settings = dict(option(text) for text in detector_option or ())
    chosen = None if detector is None else built(detector, settings)
    config = config.model_copy(update={"limit": config.limit or DEFENDED, "plan": "detect"})  # the folder's last word
    model, source = load(config)
    if chosen is None:
        chosen = built(suited(model.classes, len(source.class_names)), settings)
    images = divided(
        load_data(config.data, split=config.split, size=config.size, download=config.download),
        source,
        _training(train, config.data, config.size),
        false_alarms=false_alarms,
        per_class=train_per_class,
        seed=config.seed,
    )
    tested = Tested(model, images, chosen, within)
    info = describe_detected(
        tested,
        false_alarms=false_alarms,
        steps=steps,
        restarts=restarts,
        evaluations=evaluations,
        seed=config.seed,
        command=shlex.join(["holdfast", *sys.argv[1:]]),
        request=config.model_dump(mode="json", exclude_none=True),
    )
    progress = terminal(stderr=True)

    def tell(estimate: Estimate) -> None:
        if not quiet:
            progress.print(
                f"{len(chosen)} detectors, {len(source)} images under test, {len(images.held)} held out, "
                f"{len(images.fitted.images)} fitted on: {estimate.gradients:,} gradients and "
                f"{estimate.forwards:,} forwards of the model at most, about {clock(estimate.seconds)}",
                markup=False,
            )

    with watching_conditions(progress, "detectors", quiet=quiet) as watch:
        found = evaluate_detected(tested, info, config.folder, tell=tell, watch=watch)
    write(found.summary, found.told, config.folder)
    write_report([config.folder], config.folder / REPORT)
    if json:
        print_json(found.summary.model_dump_json())
    else:
        console = terminal()
        show_detected(console, found.summary)
        console.print(f"Written: {config.folder}, detect.json, {', '.join(WRITTEN)}, {REPORT}", markup=False)
    return 0


def _training(train: str | None, data: str, size: str | None) -> Source:
    """The training part of what was given, or of the data under test; all of it where it was given and has no such part."""
    from holdfast.data.load import load as load_data
    from holdfast.foundation.errors import BadValue

    part = train_part(train or data, size)
    if part is not None:
        return part
    if train is None:
        raise BadValue(
            f"{data} has no train part, and detectors learn from training images",
            hint="give --train with images that the model was trained on, for example --train digits:train",
        )
    return load_data(train, size=size)


def show_detected(console: Console, summary: DetectedSummary) -> None:
    """What detectors detect, what the classifier is worth with them, and a sentence for each."""
    flags, worth = (Table(box=None, pad_edge=False, padding=(0, 2, 0, 0)) for _ in range(2))
    radius = f"{summary.info.threat} {units.show(summary.info.eps)}"
    heads = ("AUC, oblivious", "AUC, adaptive", "false alarms, %", "flags noise", "flags oblivious", "flags adaptive")
    _head(flags, "detector", heads)
    _head(worth, f"accuracy, %, {radius}", ("clean", "robust, oblivious", "robust, adaptive", "gain over none"))
    alone = (summary.undefended_clean, summary.undefended_oblivious, summary.undefended)
    worth.add_row("none", *map(_percent, alone), "")
    for row in summary.rows:
        aucs = (row.oblivious.auc, row.adaptive.auc)
        shares = (row.false_alarms, row.noise, row.oblivious.detected, row.adaptive.detected)
        flags.add_row(row.detector, *map(_auc, aucs), *map(_percent, shares))
        gain = f"{100 * row.gain.value:+.1f} ({100 * row.gain.low:+.1f} to {100 * row.gain.high:+.1f})"
        accuracies = (row.clean, row.oblivious.robust, row.adaptive.robust)
        worth.add_row(row.detector, *map(_percent, accuracies), gain)
    for each in (flags, worth):
        show_whole(console, each)
        console.print()
    for row in summary.rows:
        console.print(f"{row.sentence}.", markup=False)
    info = summary.info
    console.print(
        f"{summary.n:,} images, fitted on {info.fitted.images:,} ({info.fitted.fingerprint}), thresholds from "
        f"{info.held.n:,} ({info.held.fingerprint}); {summary.gradients:,} gradients and {summary.forwards:,} forwards, "
        f"{clock(summary.seconds)}. Empirical: upper bounds on robustness.",
        markup=False,
    )
    show_findings(console, summary.warnings)


def _head(table: Table, first: str, others: tuple[str, ...]) -> None:
    table.add_column(first, no_wrap=True)
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)


def _percent(rate: Rate | None) -> str:
    return "" if rate is None else f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _auc(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.value:.2f} ({rate.low:.2f} to {rate.high:.2f})"
