"""Plans: which attacks an audit runs, in which order, each on what the ones before it left."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from holdfast.ascent.attack import RANKED, Attack
from holdfast.audit.outlines import OUTLINES
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.foundation.registry import name_of
from holdfast.records.schema import StageInfo
from holdfast.threats.threat import Threat


@dataclass(frozen=True)
class Stage:
    """One attack of a plan, under the name that records and reports give it."""

    name: str
    attack: Attack

    def info(self) -> StageInfo:
        """What a run writes about the stage."""
        return StageInfo(name=self.name, attack=name_of(self.attack), configuration=self.attack.configuration())


@dataclass(frozen=True)
class Plan:
    """Stages in their order; each works on the samples that none before it broke.

    ``about`` says in one sentence what the plan is for, ``threats`` for which sets.
    """

    name: str
    about: str
    stages: tuple[Stage, ...]
    threats: tuple[str, ...] = ("linf", "l2", "l1", "l0")

    def check(self, threat: Threat) -> None:
        """Refuses a threat that the plan is not meant for, or that one of its attacks cannot search. Raises BadValue."""
        if threat.name not in self.threats:
            raise BadValue(
                f"the plan {self.name} is not made for the threat {threat.name!r}",
                hint=f"it is made for: {', '.join(self.threats)}; choose another plan",
            )
        for stage in self.stages:
            stage.attack.check(threat)

    def most_evaluations(self, threat: Threat, samples: int, classes: int) -> dict[str, tuple[int, int]]:
        """Forwards and input gradients of each stage if none of ``samples`` ever falls: the most that the plan can cost."""
        ranking = torch.zeros(1, min(RANKED, classes - 1), dtype=torch.int64)
        cost = {}
        for stage in self.stages:
            searches = samples * stage.attack.searches(ranking).shape[1]
            steps = stage.attack.steps_on(threat)
            cost[stage.name] = (searches * (steps + 1), searches * steps)
        return cost


def named(name: str | Plan) -> Plan:
    """The plan of that name (see `holdfast.audit.outlines`); a `Plan` of one's own passes.

    Raises:
        UnknownName: no plan has it.
    """
    if isinstance(name, Plan):
        return name
    if name not in OUTLINES:
        raise UnknownName.among("plan", name, OUTLINES)
    outline = OUTLINES[name]
    stages = tuple(Stage(stage, registry.load("attack", attack)(**fields)) for stage, attack, fields in outline.stages)
    return Plan(outline.name, outline.about, stages, outline.threats)
