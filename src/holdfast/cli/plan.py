"""``holdfast plan``."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from holdfast.cli.subject import Subject, load, question
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock


def plan(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    threat: str | None = None,
    eps: str | None = None,
    plan: str | None = None,
    slots: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Say what an audit will run and what it can cost at most, before it runs.

    holdfast plan --model net:preact_resnet18 --data cifar10/test.parquet --eps 8/255 --plan thorough

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
    config = subject.configured({"threat": threat, "eps": eps, "plan": plan, "slots": slots})
    from holdfast.audit.estimate import estimate

    allowed, chosen = question(config)
    model, source = load(config)
    costs = estimate(model, source, threat=allowed, plan=chosen, slots=config.slots)
    if json:
        print(json_.dumps([asdict(cost) for cost in costs]))
        return 0
    table = Table("stage", "settings", "forwards", "gradients", "at most", "usually", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    settings = {stage.name: _settings(stage.info().configuration) for stage in chosen.stages}
    for cost in costs:
        table.add_row(
            cost.stage,
            settings.get(cost.stage, ""),
            f"{cost.forwards:,}",
            f"{cost.backwards:,}",
            clock(cost.seconds),
            clock(cost.usual),
        )
    total = sum(cost.seconds for cost in costs)
    table.add_row(
        "all",
        "",
        f"{sum(c.forwards for c in costs):,}",
        f"{sum(c.backwards for c in costs):,}",
        clock(total),
        clock(sum(c.usual for c in costs)),
    )
    console = terminal()
    console.print(f"{chosen.name}: {chosen.about}", markup=False)
    console.print(f"{model.name} on {len(source):,} images of {source.name}, if not one of them falls:", markup=False)
    console.print(table)
    return 0


def _settings(configuration: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in configuration.items() if value is not None)
