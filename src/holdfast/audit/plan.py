"""Plans: which attacks an audit runs, in which order, each on what the ones before it left."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from holdfast.ascent.attack import RANKED, Attack
from holdfast.ascent.backward import Backward
from holdfast.audit.entry import Entry, Everyone
from holdfast.audit.outlines import OUTLINES, audit_parts
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.foundation.registry import name_of
from holdfast.records.schema import StageInfo
from holdfast.threats.threat import Threat, check_threat


@dataclass(frozen=True)
class Stage:
    """One attack of a plan, under the name that records and reports give it.

    Args:
        name: see above.
        attack: the search.
        backward: what its gradients are taken through; None for the model's own backward pass.
        entry: who enters, of those whom no stage before broke.
    """

    name: str
    attack: Attack
    backward: Backward | None = None
    entry: Entry = Everyone()  # noqa: RUF009 - frozen

    def info(self) -> StageInfo:
        """What a run writes about the stage."""
        return StageInfo(
            name=self.name,
            attack=name_of(self.attack),
            configuration=self.attack.configuration(),
            backward=asdict(self.backward) if self.backward else {},
            entry={"rule": type(self.entry).__name__.lower(), **asdict(self.entry)},  # type: ignore[call-overload]
        )


@dataclass(frozen=True)
class Plan:
    """Stages in their order; each works on the samples that none before it broke.

    ``about`` says in one sentence what the plan is for, ``threats`` for which sets; ``draws``: over how many evaluations of
    an image a randomised model is averaged (1: the model has to repeat its answers).
    """

    name: str
    about: str
    stages: tuple[Stage, ...]
    threats: tuple[str, ...] = ("linf", "l2", "l1", "l0")
    draws: int = 1

    def check(self, threat: Threat) -> None:
        """Refuses a threat that the plan is not meant for, or that one of its attacks cannot search. Raises BadValue."""
        if threat.name not in self.threats:
            raise BadValue(
                f"the plan {self.name} is not made for the threat {threat.name!r}",
                hint=f"it is made for: {', '.join(self.threats)}; choose another plan",
            )
        for stage in self.stages:
            stage.attack.check(threat)

    def typically(self, samples: int) -> dict[str, float]:
        """Which share of the samples that are left usually enters each stage: for times, not for verdicts."""
        return {stage.name: stage.entry.typical(samples) / max(1, samples) for stage in self.stages}

    def most_evaluations(self, threat: Threat, samples: int, classes: int) -> dict[str, tuple[int, int]]:
        """Forwards and input gradients of each stage if none of ``samples`` ever falls: the most that the plan can cost."""
        ranking = torch.zeros(1, min(RANKED, classes - 1), dtype=torch.int64)
        cost = {}
        for stage in self.stages:
            searches = samples * stage.attack.searches(ranking).shape[1]
            steps = stage.attack.steps_on(threat)
            gradients = searches * steps if stage.attack.needs == "gradients" else 0
            cost[stage.name] = (self.draws * searches * (steps + 1), self.draws * gradients)
        return cost


def named(name: str | Plan, threat: Threat, *, audited: int = 0) -> Plan:
    """The plan of that name for that set (see `holdfast.audit.outlines`), checked; a `Plan` of one's own passes.

    ``audited``: how many of those that the plan leaves are searched by ``standard`` as well (`outlines.audit_parts`).

    Raises:
        UnknownName: no plan has it.
        BadValue: it is not made for this set.
    """
    check_threat(threat)
    if isinstance(name, Plan):
        name.check(threat)
        return name
    if name not in OUTLINES:
        raise UnknownName.among("plan", name, OUTLINES)
    outline = OUTLINES[name]
    if threat.name not in outline.threats:
        others = [each.name for each in OUTLINES.values() if threat.name in each.threats]
        raise BadValue(
            f"the plan {name} is not made for the threat {threat.name!r}",
            hint=f"plans for {threat.name}: {', '.join(others) or 'none; make one of your own in Python'}",
        )
    stages = tuple(
        Stage(
            part.name,
            registry.load("attack", part.attack)(**part.options),
            Backward(**part.backward) if part.backward else None,
            part.entry,
        )
        for part in outline.stages_on(threat.name) + audit_parts(threat.name, audited)
    )
    plan = Plan(outline.name, outline.about, stages, outline.threats, outline.draws)
    plan.check(threat)
    return plan
