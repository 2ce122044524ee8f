"""The options by which `holdfast audit` asks for a defence at inference, and what it says of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from holdfast.cli.show import show_findings
from holdfast.cli.watch import clock
from holdfast.foundation import units

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.audit.config import AuditConfig
    from holdfast.audit.divided import Watcher
    from holdfast.audit.ranks import Ranks
    from holdfast.data.source import Source
    from holdfast.imaging.pool import Pool
    from holdfast.models.model import Model
    from holdfast.records.defended import DefendedSummary
    from holdfast.records.schema import Rate


@Parameter(name="*", group="Defence at inference")
@dataclass(frozen=True, kw_only=True)
class Defended:
    """What is asked of a defence."""

    defence: str | None = None
    """Evaluate it around the model, against who does not know of it and who does; see "holdfast list defence"."""
    defence_option: Annotated[list[str] | None, Parameter(negative="")] = None
    """A setting of the defence, as key=value: mode=ol, num_draws=30, sigma=0.05. Repeat for more."""
    pool: str | None = None
    """Training images for a defence that keeps clean ones: a name or a path; its train part where there is one."""
    pool_per_class: int | None = None
    """How many of them of each class. Default 100."""
    steps: int | None = None
    """Steps of a search of the adaptive attack at its first budget. Default 20."""
    restarts: int | None = None
    """Runs of each search. Default 2."""
    budgets: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None
    """K, draws of a gradient or as many times the steps, raised until the accuracy is flat. Default 1 5 20."""
    evaluations: int | None = None
    """Fresh evaluations that score each image. Default 20."""
    tries: int | None = None
    """Of the accuracy "worst of so many". Default 5."""
    max_oblivious_gap: float | None = None
    """End with exit code 1 if the oblivious attack overstates the defence by more than so many points."""

    def given(self) -> dict[str, Any]:
        """The options that were given, under the names of the configuration."""
        fields = [
            key for key in self.__dataclass_fields__ if key != "max_oblivious_gap"
        ]  # judges a run, and is no part of it
        found = {key: value for key in fields if (value := getattr(self, key)) is not None}
        if "defence_option" in found:
            from holdfast.audit.config import option

            found["defence_options"] = dict(option(text) for text in found.pop("defence_option"))
        return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def defended(
    config: AuditConfig, model: Model, source: Source, ranks: Ranks, **origin: Any
) -> Callable[[Watcher | None], DefendedSummary]:
    """What attacks the model behind the defence of the configuration; everything that can be refused is refused now."""
    from holdfast.audit.defended.api import describe_defended, evaluate_defended
    from holdfast.audit.defended.bench import Subject
    from holdfast.audit.defended.effort import Effort
    from holdfast.audit.defended.options import FALSE_ALARMS, built, calibrated
    from holdfast.cli.subject import allowed
    from holdfast.data.load import load as load_data

    assert config.defence is not None
    threat = allowed(config)
    effort = Effort(
        steps=config.steps,
        restarts=config.restarts,
        budgets=config.budgets,
        evaluations=config.evaluations,
        tries=config.tries,
    )
    pool = None if config.pool is None else pool_of(config.pool, source, config)
    defence, note = built(config.defence, config.defence_options, pool=pool), ""
    if (rate := config.defence_options.get(FALSE_ALARMS)) is not None:
        whole = load_data(config.data, split=config.split, size=config.size)
        defence, found = calibrated(defence, model, whole, source.ids, rate)
        share = found.rate
        note = (
            f"tau flags {100 * share.value:.1f} % of {share.n} held-out clean images ({100 * share.low:.1f} to "
            f"{100 * share.high:.1f} % of others), set for {100 * found.wanted:g} %"
        )
    subject = Subject(model, source, defence, threat, effort)
    info = describe_defended(subject, seed=config.seed, name=model.name, note=note, **origin)
    return lambda watch: evaluate_defended(subject, info, config.folder, watch=watch, ranks=ranks)


def pool_of(data: str, tested: Source, config: AuditConfig) -> Pool:
    """A pool of the training part of that data, or of all of it where it has no such part; foreign where its classes have
    other names than those of the images under test."""
    from holdfast.audit.defended.options import pool_from
    from holdfast.cli.subject import train_part
    from holdfast.data.load import load as load_data

    part = train_part(data, config.size)
    source = load_data(data, size=config.size) if part is None else part
    foreign = source.class_names != tested.class_names
    return pool_from(source, per_class=config.pool_per_class, seed=config.seed, foreign=foreign)


def show_defended(console: Console, summary: DefendedSummary) -> None:
    """The three columns, the curve, the checks and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("accuracy, %", no_wrap=True)
    for head in ("undefended", "oblivious attack", "adaptive attack"):
        table.add_column(head, justify="right", no_wrap=True)
    radius = f"{summary.threat} {units.show(summary.eps)}"
    table.add_row("clean", _cell(summary.undefended_clean), _cell(summary.clean.mean), _cell(summary.clean.mean))
    estimands = [("mean", "mean of fresh draws"), ("worst", f"worst of {summary.tries}")]
    estimands += [("majority", "majority"), ("fixed", "fixed seed")]
    for place, (key, label) in enumerate(estimands if summary.randomised else estimands[:1]):
        shown = (_cell(getattr(each, key)) for each in (summary.oblivious, summary.adaptive))
        row = (f"{radius}, {label}" if summary.randomised else radius) if not place else f"  {label}"
        table.add_row(row, "" if place else _cell(summary.undefended), *shown)
    console.width = max(console.width, 96)  # cells stay whole in a narrow terminal
    console.print(table)
    curve = ", ".join(f"{100 * each.accuracy.value:.1f} % at {each.gradients:,}" for each in summary.curve)
    console.print(f"adaptive attack, gradients for an image: {curve}", markup=False)
    for check in summary.sanity:
        said = {True: "holds", False: "[yellow]fails[/yellow]", None: "[dim]open[/dim]"}[check.holds]
        console.print(f"{said}  ", end="")
        console.print(f"{check.check}: {check.saw}", markup=False)
    gain = summary.gain
    console.print(f"[bold]{summary.verdict}[/bold]: ", end="")
    console.print(
        f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}), "
        f"{100 * summary.clean_gain.value:+.1f} on clean images. Empirical: an upper bound on robustness.",
        markup=False,
    )
    console.print(
        f"{summary.n:,} images, {summary.cost:.3g} forwards an answer, {summary.gradients:,} gradients and "
        f"{summary.forwards:,} forwards in all, {clock(summary.seconds)}",
        markup=False,
    )
    show_findings(console, summary.warnings)


def _cell(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
