"""``holdfast explain``."""

from __future__ import annotations

import json as json_
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from holdfast.cli.subject import Subject, allowed, load, placed, train_part
from holdfast.cli.terminal import show_whole, terminal, width
from holdfast.cli.watch import clock, watching_counts
from holdfast.foundation.errors import Unbelievable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table as Drawn

    from holdfast.audit.config import AuditConfig
    from holdfast.data.source import Source
    from holdfast.explain.case import Case, Net
    from holdfast.explain.found import Table
    from holdfast.explain.run import Question, Speed
    from holdfast.threats.threat import Threat

LIMIT, KNOWN = 200, 2000
"""How many images are under test, and how many known ones are at hand, unless other numbers are asked for."""


def explain(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    probe: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    against: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    train_twin: Annotated[bool, Parameter(negative="")] = False,
    train: str | None = None,
    known: int = KNOWN,
    threat: str | None = None,
    eps: str = "8/255",
    budget: str | None = None,
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    plan_only: Annotated[bool, Parameter(negative="")] = False,
    out: Path = Path("runs/explain"),
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Ask why a model is robust or is not: numbers beside a twin and an untrained control, figures, one report.

    Every answer is written as it comes; the same command goes on where a stopped one was, and more questions about the same
    nets and images may be asked into the same folder. Exit code 3 if the answers contradict themselves or one another.

    holdfast explain --model net:small_cnn --weights robust.safetensors --against standard.safetensors --data digits \
--eps 0.15 --probe restarts

    Parameters
    ----------
    probe
        Which questions; see "holdfast list probe". All unless given.
    against
        Twins to compare with: weights for the same architecture, or models as for --model, with @WEIGHTS behind.
    train_twin
        Train the twin now: the same registered net on clean images alone, for about a minute.
    train
        Labelled images that the nets may know, for questions that need some; the train part of --data unless given.
    known
        How many of them.
    threat
        What an adversary may do: linf (the default), l2 or l1.
    eps
        The radius.
    budget
        Seconds, such as 60s or 5min, for all questions: decides how many images are taken.
    set
        A setting of a question, as PROBE.KEY=VALUE: restarts.num=100. Repeat for more.
    plan_only
        Say what would be asked and what it costs, and stop.
    out
        The folder.
    json
        Print the answers and the contradictions as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    from holdfast.audit.ranks import by_first, in_turn, together
    from holdfast.explain import run as running
    from holdfast.explain.case import Case, Net
    from holdfast.explain.configure import configured
    from holdfast.explain.controls import controlled
    from holdfast.explain.store import packed
    from holdfast.foundation import units
    from holdfast.report.explained import write_explanation

    config = subject.configured({"threat": threat, "eps": eps, "limit": LIMIT})
    seconds = None if budget is None else units.seconds(budget)
    probes = configured(probe, set or [])
    within, ranks = allowed(config), together()
    config = placed(config, ranks)
    model, source = load(config)
    learned = _known(train or config.data, known, config, source)
    nets = [Net("model", model), *_twins(against or [], config)]
    progress = terminal(stderr=True)
    progress.quiet = ranks.rank > 0  # the first process speaks for all
    if train_twin:
        nets.append(in_turn(ranks, lambda: _trained(config, train or config.data, within, out, progress, quiet=quiet)))
    case = Case(controlled(nets, seed=config.seed), source, within, learned, config.seed)
    speed = by_first(ranks, lambda: running.measured(case))
    if probe is None:
        for name, reason in {name: each.refuses(case) for name, each in probes.items()}.items():
            if reason:
                del probes[name]
                progress.print(f"not asked: {name}, {reason}", markup=False)
    questions = running.planned(case, probes, speed, budget=seconds)
    if not quiet or plan_only:
        _show_plan(progress, questions, speed, case)
        if len(nets) == 1 and not quiet:
            progress.print(
                "no twin: most numbers mean little alone. Give --against WEIGHTS, or --train-twin to train one.",
                markup=False,
            )
    if plan_only:
        return 0
    began = time.monotonic()
    command = shlex.join(["holdfast", *sys.argv[1:]])
    with watching_counts(progress, "searches", quiet=quiet or ranks.rank > 0) as watch:
        running.ask(case, questions, out, command=command, step=watch or (lambda *step: None), ranks=ranks)
    if ranks.rank:
        return 0
    found = running.explained(case, out)
    page = write_explanation(out)
    console = terminal(stderr=json)
    if json:
        answers = {question.name: packed(found.answers[question.name]) for question in questions}
        print(json_.dumps({"report": str(page), "contradictions": found.breaches, "answers": answers}))
    for breach in found.breaches:
        console.print("[bold red]CONTRADICTION[/bold red] ", end="")
        console.print(f"{breach}.", markup=False)
    for question in questions:
        answer = found.answers[question.name]
        console.print(question.name, style="bold", end=". ")
        console.print(question.probe.question, markup=False)
        for each in answer.tables:
            _show(console, each)
        for sentence in answer.sentences:
            console.print(sentence, markup=False)
    console.print(f"{clock(time.monotonic() - began)}. Report: {page}", markup=False)
    return Unbelievable.exit_code if found.breaches else 0


def _known(data: str, limit: int, config: AuditConfig, tested: Source) -> Source | None:
    """Images that the nets may know: the train part, or all where there is none; None where they are those under test.

    Raises BadData where an image under test is among them.
    """
    from holdfast.data.load import load as load_data
    from holdfast.data.source import subset
    from holdfast.explain.case import apart

    source = train_part(data, config.size)
    if source is None:
        source = load_data(data, size=config.size)
        if source.fingerprint() == tested.fingerprint() or source.name == tested.name:
            return None
    learned = subset(source, limit, config.seed)
    apart(learned, tested)
    return learned


def _twins(given: list[str], config: AuditConfig) -> list[Net]:
    """The twins: weights of the same architecture, or models, with the names of their files."""
    from holdfast.cli.subject import load
    from holdfast.explain.case import Net

    found: list[Net] = []
    for text in given:
        spec, at, path = text.rpartition("@")
        if not at:
            spec, path = (text, "") if ":" in text else ("", text)
        asked = config.model_copy(update={"model": spec or config.model, "weights": path or None})
        name = Path(path).stem if path else spec.partition(":")[2]
        while name in ("model", "untrained", *(net.name for net in found)):
            name += "'"
        found.append(Net(name, load(asked)[0], "twin"))
    return found


def _trained(config: AuditConfig, data: str, within: Threat, out: Path, console: Console, *, quiet: bool) -> Net:
    """The standard twin, trained now or before."""
    from holdfast.cli.subject import load
    from holdfast.data.load import load as load_data
    from holdfast.explain.case import Net
    from holdfast.explain.controls import standard_twin
    from holdfast.records.files import storing

    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    if not quiet:
        console.print("twin: the same net, trained on clean images alone", markup=False)
    images = load_data(data, split="train", size=config.size)
    path, note = standard_twin(config.model, images, within, out, seed=config.seed)
    if not quiet:
        console.print(f"twin: {note}", markup=False)
    return Net("twin", load(config.model_copy(update={"weights": str(path), "options": {}}))[0], "twin")


def _show_plan(console: Console, questions: Sequence[Question], speed: Speed, case: Case) -> None:
    from holdfast.explain import portraits

    rows = [["question", "images", "forwards", "gradients", "about"]]
    for each in questions:
        effort = each.effort
        took = clock(speed.seconds(effort))
        rows.append([each.name, f"{each.n}", f"{effort.forwards:,}", f"{effort.gradients:,}", took])
    extra, files = portraits.effort(case), min(portraits.PICTURED, case.n)
    took = clock(speed.seconds(extra))
    rows.append(["case files", f"{files}", f"{extra.forwards:,}", f"{extra.gradients:,}", took])
    console.print(f"nets: {', '.join(f'{net.name}, {net.model.name}' for net in case.nets)}", markup=False)
    console.print(_drawn(rows))
    whole = sum(speed.seconds(each) for each in (*(question.effort for question in questions), extra))
    console.print(f"about {clock(whole)} in all, if the machine stays as it is now", markup=False)


def _show(console: Console, found: Table) -> None:
    """A table; one that is wider than the terminal is laid on its side, so that its nets stand beside one another."""
    from holdfast.experiments.outcome import head, shown

    rows = [[head(column, cell) for column, cell in zip(found.columns, found.rows[-1])]]
    rows += [[shown(column, cell) for column, cell in zip(found.columns, row)] for row in found.rows]
    upright, turned = _drawn(rows), _drawn(list(zip(*rows)))
    wide = width(console, upright)
    show_whole(console, upright if wide <= max(console.width, width(console, turned)) else turned)


def _drawn(rows: Sequence[Sequence[str]]) -> Drawn:
    from rich.markup import escape
    from rich.table import Table as Drawn

    table = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(rows[0]):
        table.add_column(escape(head), justify="right" if place else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    return table
