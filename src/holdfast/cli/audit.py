"""``holdfast audit``."""

from __future__ import annotations

import json as json_
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from holdfast.cli.subject import Subject, load, question
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock, watching
from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.records.schema import Finding, Summary


UNBELIEVED = 3
"""The exit code of a run whose number is not to be believed."""


def audit(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    threat: str | None = None,
    eps: str | None = None,
    plan: str | None = None,
    audited: int | None = None,
    curve: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    out: str | None = None,
    slots: int | None = None,
    strict_checks: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Measure how robust a classifier is, and write a report.

    The same command goes on where a stopped run was, and only reads a finished one.

    holdfast audit --model net:small_cnn --weights my.safetensors --data digits --eps 0.1

    Parameters
    ----------
    threat
        What an adversary may do: linf (the default), l2, l1, l0, patch or spatial.
    eps
        The radius: 8/255, 0.5; for l0 a number of pixels, for patch 5px, for spatial 30deg.
    plan
        Which attacks: fast (the default), sweep, quick, standard, strict, plus, rand, ...; see "holdfast list plan".
    audited
        Search so many random samples of those that the plan leaves by the plan standard, too; all, if one of them falls.
    curve
        More radii to audit on the way, for robust accuracy against eps.
    out
        The run's folder; one under runs/ unless given.
    slots
        How many searches run at once; chosen by the images' size unless given.
    strict_checks
        End with exit code 3 if there is a reason to doubt the number: any warning.
    json
        Print the summary as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    config = subject.configured(
        {"threat": threat, "eps": eps, "plan": plan, "audited": audited, "curve": curve, "out": out, "slots": slots}
    )
    from holdfast.audit.run import describe, examined, run
    from holdfast.cli.report import write_report

    allowed, chosen = question(config)
    radii = [allowed.resized(units.parse(radius, name="curve", unit=allowed.unit)).eps for radius in config.curve]
    progress = terminal(stderr=True)
    model, source = load(config)
    preflight = examined(model, source, chosen, allowed)
    if not quiet:
        show_findings(progress, preflight.findings)
    info = describe(
        model,
        source,
        threat=allowed,
        curve=radii,
        plan=chosen,
        seed=config.seed,
        preflight=preflight,
        name=model.name,
        command=shlex.join(["holdfast", *sys.argv[1:]]),
        request=config.model_dump(mode="json", exclude_none=True),
    )
    folder = config.folder
    with watching(progress, quiet=quiet) as watch:
        summary = run(model, source, info, folder, threat=allowed, plan=chosen, slots=config.slots, watch=watch)
    page = write_report([folder], folder / "report.html")
    if json:
        print(json_.dumps(json_.loads(summary.model_dump_json())))
    else:
        show_summary(terminal(), summary, page)
    return UNBELIEVED if strict_checks and summary.warnings else 0


def show_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    """What a check objected to, one paragraph each."""
    for finding in findings:
        colour = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.level]
        console.print(f"[{colour}]{finding.level}[/{colour}] ", end="")
        console.print(
            f"{finding.check}: {finding.saw}. {finding.means}. {finding.remedy}.".replace("..", "."), markup=False
        )


def show_summary(console: Console, summary: Summary, page: Path) -> None:
    """The headline of a finished run."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, rate in (
        ("clean accuracy", summary.clean_accuracy),
        (f"robust accuracy, {summary.threat} {units.show(summary.eps)}", summary.robust_accuracy),
    ):
        table.add_row(
            name,
            f"[bold]{100 * rate.value:.1f} %[/bold]",
            f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %, n = {rate.n}",
        )
    console.print(table)
    console.print(
        f"plan {summary.plan}, seed {summary.seed}: {summary.forwards:,} forwards, {summary.backwards:,} gradients, "
        f"{clock(summary.seconds)}. Robust accuracy is an upper bound.",
        markup=False,
    )
    if summary.audited is not None:
        checked = summary.audited
        console.print(
            f"the plan standard broke {checked.broken} of {checked.count} random samples of those left: by standard, robust "
            f"accuracy on these images is at least {100 * checked.low:.1f} % (95 % confidence)",
            markup=False,
        )
    if summary.distances is not None and summary.distances.quantiles:
        far = ", ".join(f"{100 * share:.0f} % within {distance:.4g}" for share, distance in summary.distances.quantiles)
        console.print(f"distance to the nearest misclassified point found: {far}", markup=False)
    show_findings(console, summary.warnings + summary.notes)
    console.print(f"report: {page}", markup=False)
