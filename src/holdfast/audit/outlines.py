"""The plans that come with holdfast, as data: listing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outline:
    """A plan before its attacks are made: (stage name, attack's registry name, its configuration) in order.

    ``about`` says in one line what the plan is for; ``threats`` names the only sets it is meant for, where not all are.
    """

    name: str
    about: str
    stages: tuple[tuple[str, str, dict[str, Any]], ...]
    threats: tuple[str, ...] = ("linf", "l2", "l1", "l0")


_SWEEP = ("pgd", "pgd", {"steps": 20, "loss": "margin", "start": "clean", "schedule": "cosine"})

_APGD_CE = ("apgd-ce", "apgd", {"steps": 100, "loss": "ce"})
_APGD_T = ("apgd-t", "apgd", {"steps": 100, "loss": "targeted_dlr", "targets": 9})

OUTLINES: dict[str, Outline] = {
    outline.name: outline
    for outline in (
        Outline("sweep", "A first look: one short search per sample, too optimistic to publish.", (_SWEEP,)),
        Outline(
            "quick",
            "A daily check: a sweep, APGD-CE of 50 steps, APGD-T of 50 towards the 3 likeliest wrong classes.",
            (
                _SWEEP,
                ("apgd-ce", "apgd", {"steps": 50, "loss": "ce"}),
                ("apgd-t", "apgd", {"steps": 50, "loss": "targeted_dlr", "targets": 3}),
            ),
        ),
        Outline(
            "thorough",
            "A number to act on: a sweep, then APGD-CE and APGD-T with AutoAttack's budgets (100 steps, 9 targets).",
            (_SWEEP, _APGD_CE, _APGD_T),
        ),
        Outline(
            "standard",
            "AutoAttack's protocol (Linf, L2): APGD-CE, APGD-T, FAB-T and Square with its order and budgets; to publish.",
            (
                _APGD_CE,
                _APGD_T,
                ("fab-t", "fab", {"steps": 100, "targets": 9}),
                ("square", "square", {"steps": 5000}),
            ),
            threats=("linf", "l2"),
        ),
    )
}
