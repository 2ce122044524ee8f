"""What a finished audit says on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from holdfast.cli.watch import clock
from holdfast.foundation import units

if TYPE_CHECKING:
    from holdfast.records.conditions import ConditionsSummary
    from holdfast.records.schema import Finding, Summary
    from holdfast.records.sequences import SequencesSummary


def show_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    """What a check objected to, one paragraph each."""
    for finding in findings:
        colour = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.level]
        console.print(f"[{colour}]{finding.level}[/{colour}] ", end="")
        console.print(
            f"{finding.check}: {finding.saw}. {finding.means}. {finding.remedy}.".replace("..", "."), markup=False
        )


def show_summary(console: Console, summary: Summary) -> None:
    """The headline of a finished run."""
    from holdfast.report.wording import measured_on

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
    if summary.measured is not None:
        console.print(f"measured on {measured_on(summary.measured)}", markup=False)
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


def show_conditions(console: Console, summary: ConditionsSummary) -> None:
    """The table of the corruptions, and the means with their names."""
    levels = sorted({cell.severity for cell in summary.cells})
    errors = {(cell.corruption, cell.severity): cell.error.value for cell in summary.cells}
    ce = any(row.ce is not None for row in summary.rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("error, %")
    for head in (
        "mean",
        *(["CE"] if ce else []),
        *(f"severity {level}" if level == levels[0] else str(level) for level in levels),
    ):
        table.add_column(head, justify="right")
    for row in summary.rows:
        own = "" if row.ce is None else f"{100 * row.ce:.1f}"
        shown = [f"{100 * errors[row.corruption, level]:.1f}" for level in levels]
        table.add_row(
            escape(row.corruption), f"[bold]{100 * row.mean_error:.1f}[/bold]", *([own] if ce else []), *shown
        )
    console.print(table)
    for name, value in named_means(summary):
        console.print(f"{name}: {value}", markup=False)
    console.print(f"{summary.n:,} images, {summary.forwards:,} forwards, {clock(summary.seconds)}", markup=False)
    show_findings(console, summary.warnings)


def show_sequences(console: Console, summary: SequencesSummary) -> None:
    """The table of the perturbations, and the means with their names."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("perturbation")
    heads = ["flip probability, %", *(["flip rate"] if summary.mfr else []), "top-5 distance", "frames"]
    for head in heads:
        table.add_column(head, justify="right")
    for row in summary.rows:
        rate = "" if row.flip_rate is None else f"{100 * row.flip_rate:.1f}"
        far = "" if row.top5_distance is None else f"{row.top5_distance.value:.3f}"
        shown = [f"{100 * row.flip_probability.value:.2f}", *([rate] if summary.mfr else []), far, str(row.frames)]
        table.add_row(escape(row.perturbation), *shown)
    console.print(table)
    ten = f"{len(summary.counted)} perturbations"
    if (mean := summary.mean_flip_probability) is not None:
        console.print(
            f"mean flip probability (not normalised), {ten}: {100 * mean.value:.2f} % "
            f"({100 * mean.low:.2f} to {100 * mean.high:.2f} %)",
            markup=False,
        )
    if (mean := summary.mfr) is not None:
        console.print(
            f"mFR, normalised by {summary.baseline}: {100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})",
            markup=False,
        )
    if (mean := summary.mean_top5_distance) is not None:
        console.print(f"mean top-5 distance (not normalised), {ten}: {mean.value:.3f}", markup=False)
    console.print(f"{summary.n:,} images, {summary.forwards:,} forwards, {clock(summary.seconds)}", markup=False)
    show_findings(console, summary.warnings)


def named_means(summary: ConditionsSummary) -> Iterator[tuple[str, str]]:
    """Every mean of a run over corruptions under its right name, with its interval."""
    clean = summary.clean.error
    yield "clean error", f"{100 * clean.value:.1f} % ({100 * clean.low:.1f} to {100 * clean.high:.1f} %)"
    touched = "mean corruption error (not normalised), corruptions that training left alone"
    for name, mean in (
        (f"mean corruption error (not normalised), {len(summary.counted)} corruptions", summary.mean_error),
        (touched, summary.untouched),
        ("mean error on the held-out corruptions", summary.held_out),
        (f"mCE, normalised by {summary.baseline}", summary.mce),
        (f"mCE, normalised by {summary.baseline}, corruptions that training left alone", summary.mce_untouched),
    ):
        if mean is not None:
            yield name, f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
    if summary.relative_mce is not None:
        yield f"relative mCE, normalised by {summary.baseline}", f"{100 * summary.relative_mce:.1f}"
    yield (
        "calibration error",
        f"{100 * summary.clean.calibration_error:.1f} % clean, {100 * summary.calibration_error:.1f} % corrupted",
    )
