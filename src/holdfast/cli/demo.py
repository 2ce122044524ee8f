"""``holdfast demo``."""

from __future__ import annotations

import json as json_
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.cli.report import write_report
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock, watching, watching_counts
from holdfast.foundation import units

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.data.source import Source
    from holdfast.models.model import Model
    from holdfast.threats.threat import Threat

EPS = 0.15
CURVE = (0.05, 0.1, 0.2)


def demo(
    *,
    out: Path = Path("runs/demo"),
    explain: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Tell the whole story on handwritten digits: a standard and a robust net, both audited, one report.

    holdfast demo --out runs/demo

    Parameters
    ----------
    out
        The folder for the two nets, their two runs and the page.
    explain
        Ask all questions of holdfast explain about the robust net, too, beside the standard one; they join the page.
    json
        Print the summaries of both runs as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.attacks.pgd import PGD
    from holdfast.audit import plan as plans
    from holdfast.audit.description import describe
    from holdfast.audit.preflight import examined
    from holdfast.audit.run import run
    from holdfast.data.load import load as load_data
    from holdfast.models.load import load as load_model
    from holdfast.objectives.adversarial import Adversarial
    from holdfast.objectives.standard import Standard
    from holdfast.records.files import storing
    from holdfast.threats.linf import Linf
    from holdfast.training.checkpoint import trained
    from holdfast.training.recipe import Recipe

    began = time.monotonic()
    console = terminal()
    progress = terminal(stderr=True)
    threat = Linf(EPS)
    recipes = {
        "standard": Recipe(Standard(), threat, epochs=20, lr=3e-3, shift=2),
        "robust": Recipe(Adversarial(PGD(steps=4)), Linf(0.2), epochs=24, lr=3e-3, shift=1),
    }
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    train, test = load_data("digits:train"), load_data("digits")
    if not quiet:
        progress.print(f"handwritten digits: {len(train):,} images to learn from, {len(test):,} to be tested on")
    plan = plans.named("fast", threat)
    summaries, models = {}, {}
    for name, recipe in recipes.items():
        weights = out / f"{name}.safetensors"
        note = trained("small_cnn", train, recipe, weights)
        if not quiet:
            progress.print(f"{name} net: {note}", markup=False)
        model = load_model("net:small_cnn", weights=weights, shape=test.shape)
        models[name] = model
        info = describe(
            model,
            test,
            threat=threat,
            curve=CURVE,
            plan=plan,
            seed=0,
            preflight=examined(model, test, plan, threat),
            name=f"{name} net",
            command=shlex.join(["holdfast", "demo", "--out", str(out)]),
            request={"model": "net:small_cnn", "weights": str(weights), "data": "digits"},
        )
        with watching(progress, label=f"{name} net, ", quiet=quiet) as watch:
            summaries[name] = run(model, test, info, out / name, threat=threat, plan=plan, watch=watch)
        write_report([out / name], out / name / "report.html")
    if explain:
        from holdfast.report.page import EXPLAIN

        _why(out / "robust" / EXPLAIN, models, train, test, threat, progress, quiet=quiet)
    page = write_report([out / name for name in recipes], out / "report.html")
    if json:
        print(json_.dumps({name: summary.model_dump(mode="json") for name, summary in summaries.items()}))
        return 0
    table = Table(
        "", "clean", *(f"eps {units.show(p.eps)}" for p in summaries["robust"].curve), box=None, pad_edge=False
    )
    for name, summary in summaries.items():
        rates = [summary.clean_accuracy, *(point.robust_accuracy for point in summary.curve)]
        table.add_row(f"{name} net", *(f"{100 * rate.value:.1f} %" for rate in rates))
    console.print(
        f"accuracy on {len(test)} test digits, clean and at the worst change of every pixel value by at most eps:"
    )
    console.print(table)
    console.print(f"report: {page.resolve()} ({clock(time.monotonic() - began)})", markup=False)
    return 0


def _why(
    out: Path, models: dict[str, Model], train: Source, test: Source, threat: Threat, console: Console, *, quiet: bool
) -> None:
    """All questions about the robust net, beside the standard one and the control."""
    from holdfast.explain.api import chosen
    from holdfast.explain.case import Case, Net
    from holdfast.explain.controls import controlled
    from holdfast.explain.run import measured, planned, run

    nets = [Net("robust", models["robust"]), Net("standard", models["standard"], "twin")]
    case = Case(controlled(nets), test, threat, train)
    questions = planned(case, chosen(None, case), measured(case))
    with watching_counts(console, "searches", quiet=quiet) as watch:
        run(case, questions, out, command="holdfast demo --explain", step=watch or (lambda *step: None))
