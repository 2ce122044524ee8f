"""``holdfast certify``."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from holdfast.cli.report import write_report
from holdfast.cli.show import show_findings
from holdfast.cli.subject import Subject, load, placed
from holdfast.cli.terminal import print_json, terminal
from holdfast.cli.watch import clock, watching_conditions
from holdfast.foundation.errors import BadValue, Unbelievable

if TYPE_CHECKING:
    from holdfast.audit.config import AuditConfig
    from holdfast.records.certified import CertifySummary
    from holdfast.records.schema import Rate


def certify(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    sigma: float,
    select: int = 100,
    estimate: int = 10_000,
    alpha: float = 0.001,
    radii: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    early_stop: Annotated[bool, Parameter(negative="")] = False,
    attack: bool = True,
    steps: int | None = None,
    restarts: int | None = None,
    draws: int | None = None,
    predict: int | None = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Certify a classifier by randomised smoothing, and attack it: two bounds on its accuracy in one figure.

    For each image the class that the model gives most of its noisy copies, and the L2 radius within which it provably stays;
    then an attack on that smoothed classifier at growing radii, and one on the model alone. 200 images unless --limit says
    otherwise. The same command goes on where a stopped run was. Exit code 3 if an image is broken within its certificate.

    holdfast certify --model net:small_cnn --weights my.safetensors --data digits --sigma 0.25

    Parameters
    ----------
    sigma
        The noise's standard deviation, in pixel values from 0 to 1; the model should have been trained with it.
    select
        Draws that name the class of an image.
    estimate
        Draws that certify it: the more, the larger the largest radius that any image can get.
    alpha
        How probable a certificate may be a wrong one.
    radii
        L2, increasing; 0 is always among them. From 0 to just beyond the largest that can be certified unless given.
    early_stop
        Stop drawing for an image as soon as it is decided which of the radii it reaches.
    attack
        Attack the smoothed classifier and the model; --no-attack certifies alone.
    steps
        Of a search. Default 20.
    restarts
        Runs of each search. Default 1.
    draws
        Noisy copies that a gradient is averaged over. Default 20.
    predict
        Draws of the answer at the points of the attack. Default 1000.
    out
        The run's folder; one under runs/ unless given.
    json
        Print certify.json on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.audit.certified.api import describe_certified, evaluate_certified
    from holdfast.audit.certified.question import Pursuit, Question
    from holdfast.audit.certified.run import at_most
    from holdfast.audit.config import DEFENDED
    from holdfast.audit.ranks import together
    from holdfast.records.files import storing, write_atomic
    from holdfast.records.store import REPORT
    from holdfast.report.certified import as_csv, figure
    from holdfast.report.charts import save_png, svg

    effort = {"steps": steps, "restarts": restarts, "draws": draws, "predict": predict}
    given = {name: value for name, value in effort.items() if value is not None}
    if given and not attack:
        raise BadValue(f"{', '.join(given)} given together with --no-attack", hint="leave one of the two out")
    config = subject.configured()
    config = config if config.limit is not None else config.model_copy(update={"limit": DEFENDED})
    pursuit = Pursuit(**given) if attack else None
    question = Question(sigma, select, estimate, alpha, tuple(radii or ()), early_stop, pursuit, config.seed)
    ranks = together()
    model, source = load(placed(config, ranks))
    info = describe_certified(model, source, question, command=shlex.join(["holdfast", *sys.argv[1:]]))
    folder, progress = out or _folder(config, sigma), terminal(stderr=True)
    quiet = quiet or ranks.rank > 0
    if not quiet:
        forwards, gradients = at_most(question, len(source))
        progress.print(
            f"{len(source)} images, at most {forwards:,} forwards and {gradients:,} gradients of the model; radii "
            f"{', '.join(f'{radius:g}' for radius in question.radii)}; none beyond {info.largest:.4g} can be certified",
            markup=False,
        )
    with watching_conditions(progress, "images", quiet=quiet) as watch:
        found = evaluate_certified(model, source, question, info, folder, watch=watch, ranks=ranks)
    if ranks.rank:
        return 0
    with storing(folder):
        chart = figure(found)
        write_atomic(folder / "table.csv", [as_csv(found)])
        write_atomic(folder / "figure.svg", [svg(chart).encode()])
        save_png(chart, folder / "figure.png")
    write_report([folder], folder / REPORT)
    _contradicted(terminal(stderr=json), found)
    if json:
        print_json(found.model_dump_json())
    else:
        _show(terminal(), found, folder)
    return Unbelievable.exit_code if found.contradictions else 0


def _folder(config: AuditConfig, sigma: float) -> Path:
    what = (
        "certify",
        Path(config.weights).stem if config.weights else config.model,
        Path(config.data).stem,
        f"{sigma:g}",
    )
    return Path("runs") / "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_") for part in what)


def _contradicted(console: Console, found: CertifySummary) -> None:
    from holdfast.audit.certified.conclude import by_chance

    for each in found.contradictions:
        console.print("[bold red]CONTRADICTION[/bold red] ", end="")
        console.print(
            f"image {each.id} is certified as class {each.certified} within {each.radius:.4g}, and at {each.distance:.4g} "
            f"it is of class {each.found}, both at alpha {found.asked.alpha:g}",
            markup=False,
        )
    if found.contradictions:
        console.print(
            f"{len(found.contradictions)} of {found.n} images; at most {by_chance(found.asked):.2g} are to be expected if "
            "all is well. Does the model repeat its answers, and does it read an image alike in any batch?",
            markup=False,
        )


def _show(console: Console, found: CertifySummary, folder: Path) -> None:
    console.width = max(console.width, 96)  # cells stay whole in a narrow terminal
    attacked = found.asked.attack is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("L2 radius", "certified, %", *(("under attack, %", "undefended, %", "abstains") if attacked else ())):
        table.add_column(head, justify="right", no_wrap=True)
    for point in found.curve:
        rates = (point.certified, point.attacked, point.undefended)
        more = [] if point.abstained is None else [str(point.abstained)]
        table.add_row(f"{point.radius:g}", *(_cell(rate) for rate in rates if rate is not None), *more)
    console.print(table)
    bounds = [
        (each.attacked.value - each.certified.value, each.radius)
        for each in found.curve
        if each.attacked and each.radius <= found.asked.largest
    ]
    if bounds:
        gap, radius = max(bounds)
        console.print(
            f"of the radii that {found.asked.estimate:,} draws can certify, {radius:g} leaves the most open: "
            f"{100 * gap:.1f} % of images are neither certified nor broken",
            markup=False,
        )
    console.print(
        f"{found.n:,} images, {found.forwards:,} forwards and {found.gradients:,} gradients, {clock(found.seconds)}. A "
        f"certificate is wrong with a probability of {found.asked.alpha:g} at most.",
        markup=False,
    )
    show_findings(console, found.warnings)
    console.print(f"Written: {folder}, certify.json, table.csv, figure.svg, figure.png and report.html", markup=False)


def _cell(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
