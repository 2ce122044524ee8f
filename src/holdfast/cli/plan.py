"""``holdfast plan``."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.cli.corruptions import Corrupted, asked_of
from holdfast.cli.subject import Subject, load, question
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock

if TYPE_CHECKING:
    from holdfast.audit.estimate import Cost


def plan(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    corrupted: Corrupted = Corrupted(),  # noqa: B008 - frozen
    *,
    threat: str | None = None,
    eps: str | None = None,
    plan: str | None = None,
    slots: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Say what an audit will run, how long it will take and how much memory, before it runs.

    holdfast plan --model net:preact_resnet18 --data cifar10/test.parquet --eps 8/255 --corruptions test

    Parameters
    ----------
    threat
        What an adversary may do: linf (the default), l2, l1, l0, patch or spatial.
    eps
        The radius: 8/255, 0.5; for l0 a number of pixels, for patch 5px, for spatial 30deg.
    plan
        Which attacks: fast (the default), sweep, quick, thorough, standard, strict, plus, rand, ...
    slots
        How many searches run at once; chosen by the images' size unless given.
    json
        Print the stages as JSON.
    """
    config = subject.configured({"threat": threat, "eps": eps, "plan": plan, "slots": slots} | corrupted.given())
    from holdfast.audit.corrupted.estimate import estimate_conditions
    from holdfast.audit.estimate import estimate

    asked = question(config) if config.adversarial else None
    model, source = load(config)
    weather = asked_of(config, source) if config.corruptions else None
    costs = estimate(model, source, threat=asked[0], plan=asked[1], slots=config.slots) if asked else []
    under = estimate_conditions(model, source, weather) if weather else []
    if json:
        print(json_.dumps([asdict(cost) for cost in costs + under]))
        return 0
    console = terminal()
    of = f"{model.name} on {len(source):,} images of {source.name}"
    if asked:
        console.print(f"{asked[1].name}: {asked[1].about}", markup=False)
        console.print(f"{of}; at most: if not one of them falls", markup=False)
        console.print(_table(costs, {stage.name: _settings(stage.info().configuration) for stage in asked[1].stages}))
    if weather:
        levels = ", ".join(map(str, weather.severities))
        console.print(f"{of} under {len(weather.corruptions)} corruptions, severities {levels}", markup=False)
        console.print(_table(under, {}))
    memory = max((cost.memory or 0 for cost in costs + under), default=0)
    if memory:
        console.print(f"memory: about {memory / 2**20:,.0f} MiB, the report not counted", markup=False)
    return 0


def _table(costs: Sequence[Cost], settings: Mapping[str, str]) -> Table:
    """The costs, a row each, and their sum."""
    table = Table("stage", "settings", "forwards", "gradients", "at most", "usually", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    sums = [sum(parts) for parts in zip(*((c.forwards, c.backwards, c.seconds, c.usual) for c in costs))]
    rows = [(c.stage, settings.get(c.stage, ""), c.forwards, c.backwards, c.seconds, c.usual) for c in costs]
    for name, how, forwards, backwards, seconds, usual in [*rows, ("all", "", *sums)]:
        table.add_row(name, how, f"{forwards:,}", f"{backwards:,}", clock(seconds), clock(usual))
    return table


def _settings(configuration: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in configuration.items() if value is not None)
