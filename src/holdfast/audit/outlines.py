"""The plans that come with holdfast, as data: listing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast.audit.entry import Drawn, Entry, Escalated, Everyone, IfBroken, Near, Same, Sampled, Whole


@dataclass(frozen=True)
class Part:
    """A stage before its attack is made.

    Args:
        name: the stage's name.
        attack: the attack's registry name.
        options: its configuration.
        backward: what its backward pass is softened by (`holdfast.ascent.backward.Backward`); nothing for the true one.
        entry: who enters, of those whom no stage before broke.
    """

    name: str
    attack: str
    options: dict[str, Any]
    backward: dict[str, Any] = field(default_factory=dict)
    entry: Entry = Everyone()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Outline:
    """A plan before its attacks are made.

    Args:
        name: the plan's name.
        about: in one line, what it is for.
        stages: what it runs, in order.
        threats: the sets it is meant for.
        on: the stages for a threat set that has its own.
        draws: over how many evaluations of an image a randomised model is averaged.
    """

    name: str
    about: str
    stages: tuple[Part, ...]
    threats: tuple[str, ...] = ("linf", "l2", "l1", "l0")
    on: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    draws: int = 1

    def stages_on(self, threat: str) -> tuple[Part, ...]:
        """The stages for that set."""
        return self.on.get(threat, self.stages)


_SWEEP = Part("pgd", "pgd", {"steps": 20, "loss": "margin", "start": "clean", "schedule": "cosine"})

_APGD_CE = Part("apgd-ce", "apgd", {"steps": 100, "loss": "ce"})
_APGD_T = Part("apgd-t", "apgd", {"steps": 100, "loss": "targeted_dlr", "targets": 9})
_FAB_T = Part("fab-t", "fab", {"steps": 100, "targets": 9})
_SQUARE = Part("square", "square", {"steps": 5000})

_SHRINKING = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))
_SOFT, _SOFTER, _LEAKY = {"tau": 0.3}, {"tau": 0.2}, {"slope": 0.03}


def _round(number: int, longer: int) -> tuple[Part, ...]:
    """Unlike searches, each on those that the gains before it leave any hope for."""
    near = Near(factor=1.5, decay=0.6, floor=0.1)
    soft = {"steps": 30 * longer, "loss": "margin", "radii": _SHRINKING}
    return (
        Part(f"soft-{number}", "apgd", soft, _SOFT, near),
        Part(f"ce-{number}", "apgd", {"steps": 30 * longer, "loss": "scaled_ce"}, {}, near),
        Part(f"leaky-{number}", "apgd", soft, _LEAKY, near),
        Part(f"targets-{number}", "apgd", {"steps": 20 * longer, "loss": "margin", "targets": 4}, {}, near),
        Part(f"softer-{number}", "apgd", soft, _SOFTER, near),
        Part(f"dlr-{number}", "apgd", {"steps": 30 * longer, "loss": "dlr", "radii": _SHRINKING}, {}, near),
    )


def _fast(longer: int) -> tuple[Part, ...]:
    """The stages of the plan fast, their gradient searches so many times as long as in Linf and L2."""
    return (
        Part("sweep", "apgd", {"steps": 8 * longer, "loss": "scaled_ce", "start": "clean"}),
        Part("targets", "apgd", {"steps": 8 * longer, "loss": "margin", "targets": 2}),
        Part("soft", "apgd", {"steps": 12 * longer, "loss": "margin", "radii": _SHRINKING}, _SOFT),
        *_round(1, longer),
        *_round(2, longer),
        Part("square-check", "square", {"steps": 150}, {}, Sampled(share=0.1, least=12, most=64)),
        Part("square-near", "square", {"steps": 5000, "patience": 1.5}, {}, Escalated("square-check")),
    )


_FAST = _fast(1)
_FAST_L1 = _fast(3)  # sparse steps take longer to converge

_STANDARD = (_APGD_CE, _APGD_T, _FAB_T, _SQUARE)
_STANDARD_L1 = (
    Part("apgd-ce", "apgd", {"steps": 100, "loss": "ce", "restarts": 5}),
    Part("apgd-t", "apgd", {"steps": 100, "loss": "targeted_dlr", "targets": 5}),
    _FAB_T,
    _SQUARE,
)

OUTLINES: dict[str, Outline] = {
    outline.name: outline
    for outline in (
        Outline("sweep", "A first look: one short search per sample, too optimistic to publish.", (_SWEEP,)),
        Outline(
            "quick",
            "A daily check: a sweep, APGD-CE of 50 steps, APGD-T of 50 towards the 3 likeliest wrong classes.",
            (
                _SWEEP,
                Part("apgd-ce", "apgd", {"steps": 50, "loss": "ce"}),
                Part("apgd-t", "apgd", {"steps": 50, "loss": "targeted_dlr", "targets": 3}),
            ),
            threats=("linf", "l2", "l1"),
        ),
        Outline(
            "thorough",
            "A number to act on: a sweep, then APGD-CE and APGD-T with AutoAttack's budgets (100 steps, 9 targets).",
            (_SWEEP, _APGD_CE, _APGD_T),
            threats=("linf", "l2", "l1"),
        ),
        Outline(
            "fast",
            "A verdict as strong as AutoAttack's at a fraction of its cost: many short unlike searches, checked by Square.",
            _FAST,
            threats=("linf", "l2", "l1"),
            on={"l1": _FAST_L1},
        ),
        Outline(
            "standard",
            "AutoAttack's protocol: APGD-CE, APGD-T, FAB-T and Square with its order and budgets; a number to publish.",
            _STANDARD,
            threats=("linf", "l2", "l1"),
            on={"l1": _STANDARD_L1},
        ),
        Outline(
            "strict",
            "The plan fast, then the plan standard on what it leaves: never above either; costs as much as standard.",
            (*_FAST, *_STANDARD),
            threats=("linf", "l2", "l1"),
            on={"l1": (*_FAST_L1, *_STANDARD_L1)},
        ),
        Outline(
            "plus",
            "AutoAttack's protocol plus: five restarts of APGD-CE, APGD-DLR and FAB, Square, APGD-T and FAB-T.",
            (
                Part("apgd-ce", "apgd", {"steps": 100, "loss": "ce", "restarts": 5}),
                Part("apgd-dlr", "apgd", {"steps": 100, "loss": "dlr", "restarts": 5}),
                Part("fab", "fab", {"steps": 100, "targets": 0, "restarts": 5}),
                _SQUARE,
                _APGD_T,
                _FAB_T,
            ),
            threats=("linf", "l2"),
        ),
        Outline(
            "distance",
            "How near the nearest misclassified point is that is found, up to eps: minimal attacks, one run for all radii.",
            (Part("fmn", "fmn", {"steps": 200}, {}, Whole()), Part("deep-fool", "deep_fool", {}, {}, Whole())),
            threats=("linf", "l2", "l1", "l0"),
            on={
                "l2": (
                    Part("fmn", "fmn", {"steps": 200}, {}, Whole()),
                    Part("ddn", "ddn", {"steps": 200}, {}, Whole()),
                    Part("lbfgs", "lbfgs", {}, {}, Whole()),
                    Part("cw", "cw", {}, {}, Whole()),
                ),
                "l1": (Part("fmn", "fmn", {"steps": 200}, {}, Whole()), Part("ead", "ead", {}, {}, Whole())),
                "l0": (
                    Part("fmn", "fmn", {"steps": 200}, {}, Whole()),
                    Part("sparse-fool", "sparse_fool", {}, {}, Whole()),
                ),
            },
        ),
        Outline(
            "black-box",
            "For models without gradients, such as .onnx: Square by scores, then HopSkipJump by labels on what it leaves.",
            (_SQUARE,),
            threats=("linf", "l2", "l1", "spatial"),
            on={
                **dict.fromkeys(("linf", "l2"), (_SQUARE, Part("hop-skip-jump", "hop_skip_jump", {"steps": 5000}))),
                "spatial": (Part("grid", "spatial_grid", {"angles": 31, "shifts": 5}),),
            },
        ),
        Outline(
            "rand",
            "AutoAttack's protocol for randomised models: APGD-CE and APGD-DLR, every gradient a mean over 20 draws.",
            (_APGD_CE, Part("apgd-dlr", "apgd", {"steps": 100, "loss": "dlr"})),
            threats=("linf", "l2", "l1"),
            draws=20,
        ),
        Outline(
            "spatial",
            "Rotations and translations: a grid of 775 of them, then gradient ascent on what it leaves.",
            (
                Part("grid", "spatial_grid", {"angles": 31, "shifts": 5}),
                Part("gradient", "spatial_gradient", {"steps": 10, "restarts": 20}),
            ),
            threats=("spatial",),
        ),
        Outline(
            "patch",
            "A painted square: 100 places for each sample, each the likeliest by the gradient of several, then any.",
            (
                Part("likely", "adversarial_patch", {"steps": 20, "restarts": 50, "candidates": 10}),
                Part("anywhere", "adversarial_patch", {"steps": 20, "restarts": 50, "candidates": 1, "loss": "margin"}),
            ),
            threats=("patch",),
        ),
    )
}


AUDIT = "audit-"
"""What the names of the stages begin with that check a plan on a few samples."""


def audit_parts(threat: str, count: int) -> tuple[Part, ...]:
    """The plan ``standard`` on ``count`` random samples of those left; on all, if one of them falls."""
    if not count:
        return ()
    stages = OUTLINES["standard"].stages_on(threat)
    first, *others = [AUDIT + part.name for part in stages]
    entries = (Drawn(count), *(Same(first, count) for _ in others))
    audits = [
        Part(name, part.attack, part.options, {}, entry) for name, part, entry in zip([first, *others], stages, entries)
    ]
    return (*audits, *(Part(part.name, part.attack, part.options, {}, IfBroken(first)) for part in stages))
