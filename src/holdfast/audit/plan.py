"""Plans: which attacks an audit runs, in which order, each on what the ones before it left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdfast.ascent.attack import RANKED, Attack
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.foundation.errors import UnknownName
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

    ``about`` says in one sentence what the plan is for.
    """

    name: str
    about: str
    stages: tuple[Stage, ...]

    def check(self, threat: Threat) -> None:
        """Refuses a threat that one of the attacks cannot search. Raises BadValue."""
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


_SWEEP = Stage("pgd", PGD(steps=20, loss="margin", start="clean", schedule="cosine"))

PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("sweep", "a first look: one short search per sample, far too optimistic to publish", (_SWEEP,)),
        Plan(
            "quick",
            "a daily check: a short sweep, then APGD on cross-entropy and towards the three likeliest wrong classes",
            (
                _SWEEP,
                Stage("apgd-ce", APGD(steps=50, loss="ce")),
                Stage("apgd-t", APGD(steps=50, loss="targeted_dlr", targets=3)),
            ),
        ),
        Plan(
            "thorough",
            "a number to act on: the sweep, then APGD-CE and APGD-T with AutoAttack's budgets (its two gradient attacks)",
            (
                _SWEEP,
                Stage("apgd-ce", APGD(steps=100, loss="ce")),
                Stage("apgd-t", APGD(steps=100, loss="targeted_dlr", targets=9)),
            ),
        ),
    )
}


def named(name: str | Plan) -> Plan:
    """The plan of that name; a `Plan` of one's own passes.

    Raises:
        UnknownName: no plan has it.
    """
    if isinstance(name, Plan):
        return name
    if name not in PLANS:
        raise UnknownName.among("plan", name, PLANS)
    return PLANS[name]


def of(name: str, stages: Sequence[tuple[str, Attack]], *, about: str = "") -> Plan:
    """A plan of one's own from (stage name, attack) pairs."""
    return Plan(name, about, tuple(Stage(stage, attack) for stage, attack in stages))
