"""``holdfast audit``."""

from __future__ import annotations

import json as json_
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from holdfast.cli.corruptions import Natural, adaptation, asked_of, sequences_of
from holdfast.cli.defences import Defended, defended, show_defended
from holdfast.cli.show import show_conditions, show_findings, show_sequences, show_summary
from holdfast.cli.subject import Subject, load, placed, question
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import watching, watching_conditions
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, Incomplete

if TYPE_CHECKING:
    from holdfast.ascent.acceleration import Acceleration
    from holdfast.audit.config import AuditConfig
    from holdfast.audit.divided import Watcher
    from holdfast.audit.plan import Plan
    from holdfast.audit.ranks import Ranks
    from holdfast.data.source import Source
    from holdfast.models.model import Model
    from holdfast.records.conditions import ConditionsSummary
    from holdfast.records.schema import Summary
    from holdfast.records.sequences import SequencesSummary
    from holdfast.threats.threat import Threat


BELOW, UNBELIEVED = 1, 3
"""The exit codes of a run that misses what was asked of it, and of one whose number is not to be believed."""


def audit(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    natural: Natural = Natural(),  # noqa: B008 - frozen
    guarded: Defended = Defended(),  # noqa: B008 - frozen
    *,
    threat: str | None = None,
    eps: str | None = None,
    plan: str | None = None,
    audited: int | None = None,
    curve: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    out: str | None = None,
    slots: int | None = None,
    precision: str | None = None,
    compile: str | None = None,
    strict_checks: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Measure how robust a classifier is, and write a report.

    With --eps: against the worst change within that radius. With --corruptions: under fog, blur, noise and the like. With
    --perturbations: along films of small changes. All can be asked for at once. With --defence: behind a defence at
    inference, beside the undefended model, on 200 images unless --limit says otherwise. The same command goes on where a
    stopped run was, and only reads a finished one.

    holdfast audit --model net:small_cnn --weights my.safetensors --data digits --eps 0.1 --corruptions all

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
    precision
        What the searches compute in: full (the model's own type, the default), bfloat16 or float16. Every point that counts
        is judged by the model in its own type.
    compile
        How the searches are compiled: none (the default), default, or graph (CUDA graphs).
    strict_checks
        End with exit code 3 if there is a reason to doubt the number: any warning.
    json
        Print the summary as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    if guarded.max_oblivious_gap is not None and guarded.defence is None:
        raise BadValue("max_oblivious_gap judges a defence, and none is given", hint="give --defence, or leave it out")
    config = subject.configured(
        {"threat": threat, "eps": eps, "plan": plan, "audited": audited, "curve": curve, "out": out, "slots": slots}
        | {"precision": precision, "compile": compile}
        | natural.given()
        | guarded.given()
    )
    from holdfast.ascent.acceleration import Acceleration
    from holdfast.audit.ranks import together
    from holdfast.cli.report import write_report

    asked = question(config) if config.adversarial else None
    ranks = together()
    progress, quiet = terminal(stderr=True), quiet or ranks.rank > 0
    model, source = load(placed(config, ranks))
    acceleration = Acceleration(config.precision, config.compile)
    acceleration.check(model.device)
    weather = _weather(config, model, source, ranks) if config.corruptions else None
    films = _films(config, model, source, ranks) if config.perturbations else None
    behind = defended(config, model, source, ranks, **_origin(config)) if config.defence else None
    worst = _worst_case(config, *asked, acceleration, model, source, progress, ranks, quiet=quiet) if asked else None
    under = along = guard = None
    if behind:
        with watching_conditions(progress, "defence", quiet=quiet) as watch:
            guard = behind(watch)
    if weather:
        with watching_conditions(progress, "corruptions", quiet=quiet) as watch:
            under = weather(watch)
    if films:
        with watching_conditions(progress, "perturbations", quiet=quiet) as watch:
            along = films(watch)
    if ranks.rank:
        return 0
    page = write_report([config.folder], config.folder / "report.html")
    found = {"worst_case": worst, "corruptions": under, "perturbations": along, "defence": guard}
    if json:
        told = {name: json_.loads(each.model_dump_json()) for name, each in found.items() if each}
        print(json_.dumps(told["worst_case"] if [*told] == ["worst_case"] else told))
    else:
        console = terminal()
        if worst:
            show_summary(console, worst)
        if under:
            show_conditions(console, under)
        if along:
            show_sequences(console, along)
        if guard:
            show_defended(console, guard)
        console.print(f"report: {page}", markup=False)
    if worst and worst.failed:
        return Incomplete.exit_code
    allowed_gap = guarded.max_oblivious_gap
    if guard and allowed_gap is not None and 100 * guard.overstated.value > allowed_gap:
        far = f"{100 * guard.overstated.value:.1f} points"
        progress.print(
            f"the oblivious attack overstates the defence by {far}; {allowed_gap:g} are allowed", markup=False
        )
        return BELOW
    warned = any(doubt.level == "warning" for each in found.values() if each for doubt in each.warnings)
    return UNBELIEVED if strict_checks and warned else 0


def _worst_case(
    config: AuditConfig,
    allowed: Threat,
    chosen: Plan,
    acceleration: Acceleration,
    model: Model,
    source: Source,
    progress: Console,
    ranks: Ranks,
    *,
    quiet: bool,
) -> Summary | None:
    """The audit by the plan; None for a process that is not the first."""
    from holdfast.audit.description import describe
    from holdfast.audit.preflight import examined
    from holdfast.audit.run import lend_a_hand, run

    if ranks.rank:
        lend_a_hand(
            model,
            source,
            config.folder,
            threat=allowed,
            plan=chosen,
            slots=config.slots,
            ranks=ranks,
            acceleration=acceleration,
        )
        return None
    radii = [allowed.resized(units.parse(radius, name="curve", unit=allowed.unit)).eps for radius in config.curve]
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
        acceleration=acceleration,
        **_origin(config),
    )
    with watching(progress, quiet=quiet) as watch:
        return run(
            model,
            source,
            info,
            config.folder,
            threat=allowed,
            plan=chosen,
            slots=config.slots,
            watch=watch,
            ranks=ranks,
            acceleration=acceleration,
        )


def _weather(
    config: AuditConfig, model: Model, source: Source, ranks: Ranks
) -> Callable[[Watcher | None], ConditionsSummary]:
    """What runs the model under the corruptions; everything that can be refused is refused now."""
    from holdfast.audit.corrupted.api import divided_by, evaluate_conditions
    from holdfast.audit.corrupted.run import describe_conditions

    asked = asked_of(config, source)
    adapt = adaptation(config.adapt, model) if config.adapt else None
    name = f"{model.name}, {config.adapt}" if config.adapt else model.name
    info = describe_conditions(model, source, asked, name=name, adaptation=config.adapt or "", **_origin(config))
    divisor = divided_by(config.baseline, info)
    return lambda watch: evaluate_conditions(
        model, source, info, asked, config.folder, divisor, adapt=adapt, watch=watch, ranks=ranks
    )


def _films(
    config: AuditConfig, model: Model, source: Source, ranks: Ranks
) -> Callable[[Watcher | None], SequencesSummary]:
    """What follows the model along the perturbations; likewise."""
    from holdfast.audit.perturbed.question import divided_by
    from holdfast.audit.perturbed.run import describe_sequences, evaluate_sequences

    asked = sequences_of(config, source)
    info = describe_sequences(model, source, asked, name=model.name, **_origin(config))
    divisor = divided_by(config.baseline, info)
    return lambda watch: evaluate_sequences(
        model, source, info, asked, config.folder, divisor, watch=watch, ranks=ranks
    )


def _origin(config: AuditConfig) -> dict[str, Any]:
    return {
        "command": shlex.join(["holdfast", *sys.argv[1:]]),
        "request": config.model_dump(mode="json", exclude_none=True),
    }
