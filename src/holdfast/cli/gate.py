"""``holdfast gate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from holdfast.cli.show import show_findings
from holdfast.cli.terminal import print_json, show_whole, terminal
from holdfast.foundation.errors import HoldfastError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.gate.verdict import Verdict

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub names the file that it shows with a job."""


def gate(
    run: Path,
    *requirements: str,
    config: Path | None = None,
    baseline: str | None = None,
    bound: Literal["value", "interval"] | None = None,
    accept: Annotated[list[str] | None, Parameter(negative="")] = None,
    junit: Path | None = None,
    step_summary: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Hold a finished run against requirements, for a machine that decides: the exit code says how it ended.

    holdfast gate runs/branch "robust_accuracy >= 0.45" "difference >= -0.02" --baseline runs/main

    0: every requirement is met. 1: one is missed. 3: a check of the run doubts its figures, whatever they say. 4: the run
    has not come to its end.

    Parameters
    ----------
    run
        The folder of a run.
    requirements
        A figure, a comparison, a number: "robust_accuracy at 4/255 >= 0.6", "mce <= 80 %", "clean_difference >= -0.01".
    config
        A TOML file with the keys require, baseline, bound and accept.
    baseline
        The folder of the run that differences are taken to, on the same images.
    bound
        Judge the figures themselves (value, the default), or the unfavourable ends of their 95 % intervals (interval).
    accept
        A check whose doubt is known and accepted, by its name. Repeat for more.
    junit
        Write the verdict as JUnit XML, too.
    step_summary
        Append it to this file as Markdown; the file that GITHUB_STEP_SUMMARY names, if it is set, unless given.
    json
        Print the verdict as JSON on stdout, and nothing else there.
    """
    from holdfast.gate.judge import gate as required
    from holdfast.gate.judge import judge
    from holdfast.gate.tell import append_summary, write_junit

    named = os.environ.get(STEP_SUMMARY)
    summary = step_summary or (Path(named) if named else None)
    verdict = error = None
    try:
        given = {"require": requirements, "baseline": baseline, "bound": bound, "accept": accept}
        verdict = judge(run, required(config, given))
    except HoldfastError as problem:
        error = problem
    if junit is not None:
        write_junit(junit, str(run), verdict, error)
    if summary is not None:
        append_summary(summary, str(run), verdict, error)
    if verdict is None:
        assert error is not None
        raise error
    if json:
        print_json(verdict.model_dump_json())
    else:
        show_verdict(terminal(), verdict)
    return verdict.exit_code


def show_verdict(console: Console, verdict: Verdict) -> None:
    """Every requirement beside its figure, and why the figures are doubted."""
    from holdfast.gate.tell import figure, outcome

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for judged in verdict.judged:
        colour = "green" if judged.met else "bold red"
        table.add_row(escape(judged.asked), escape(figure(judged)), f"[{colour}]{outcome(judged)}[/{colour}]")
    show_whole(console, table)
    show_findings(console, verdict.doubts)
    for doubt in verdict.accepted:
        console.print(f"accepted {doubt.check}: {doubt.saw}.", markup=False)
    console.print(f"{verdict.words} (judged by {verdict.bound})", markup=False)
