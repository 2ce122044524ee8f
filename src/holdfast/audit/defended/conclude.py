"""From the outcomes of an audit of a defence to its columns, its verdict and the checks of the evaluation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from holdfast.audit.corrupted.notes import finding
from holdfast.audit.defended.outcome import Gathered, Lines, adaptive_stage, gathered, levels, paired, rate, share
from holdfast.audit.defended.sanity import Seen, sane
from holdfast.probes.estimands import estimands
from holdfast.records.defended import (
    FIXED,
    FOLDER,
    OBLIVIOUS,
    Accuracies,
    ByAttack,
    DefendedInfo,
    DefendedSummary,
    Difference,
    Sanity,
)
from holdfast.records.files import write_atomic
from holdfast.records.part import SUMMARY
from holdfast.records.schema import CLEAN, Finding

GAIN, NO_GAIN = "a gain over the undefended model", "no gain over the undefended model"


def conclude_defended(
    folder: Path,
    info: DefendedInfo,
    lines: Lines,
    *,
    off: bool | None,
    cost: float,
    cost_attacked: float,
    seconds: float,
) -> DefendedSummary:
    """Writes ``summary.json``; a pure function of the lines, but for the keyword arguments.

    Args:
        off: whether the defence without its strength is the undefended model; None: it has no such setting.
        cost, cost_attacked: forwards of the model for an answer, on clean and on adversarial images.
        seconds: that the run took.
    """
    seen, last = gathered(lines, info), adaptive_stage(lines, info)
    clean, oblivious, adaptive = (seen.right(stage).mean(1) for stage in (CLEAN, OBLIVIOUS, last))
    alone = seen.undefended[CLEAN] == seen.label
    core = np.all([said == seen.label for said in seen.undefended.values()], axis=0)
    for line in (line for (stage, _), line in lines.items() if stage == OBLIVIOUS):
        core[line.first : line.first + len(line.ids)] &= np.all(list(line.model_right.values()), axis=0)
    steps = levels(lines, info)
    gain = paired(adaptive - core)
    checks = sane(Seen(lines, oblivious, adaptive, core, tuple(steps), off))
    summary = DefendedSummary(
        name=info.name,
        defence=info.defence,
        n=info.data.n,
        threat=info.threat,
        eps=info.eps,
        seed=info.seed,
        evaluations=info.evaluations if info.randomised else 1,
        tries=info.tries,
        randomised=info.randomised,
        undefended_clean=share(alone),
        undefended=share(core),
        clean=_accuracies(seen, CLEAN, CLEAN, info),
        oblivious=_accuracies(seen, OBLIVIOUS, OBLIVIOUS, info),
        adaptive=_accuracies(seen, last, FIXED, info),
        gain=gain,
        clean_gain=paired(clean - alone),
        overstated=paired(oblivious - adaptive),
        verdict=GAIN if gain.low > 0 else NO_GAIN,
        by_attack=_by_attack(lines),
        curve=tuple(step.level(info.data.n) for step in steps),
        flat=steps[-1].flat,
        found=dict(sorted(Counter(by for (s, _), line in lines.items() if s == last for by in line.found).items())),
        sanity=checks,
        cost=cost,
        cost_attacked=cost_attacked,
        gradients=sum(line.gradients for line in lines.values()),
        forwards=sum(line.forwards for line in lines.values()),
        seconds=seconds,
        warnings=_warnings(info, checks, gain),
    )
    write_atomic(folder / FOLDER / SUMMARY, [summary.model_dump_json(indent=2).encode()])
    return summary


def _accuracies(seen: Gathered, stage: str, fixed: str, info: DefendedInfo) -> Accuracies:
    """The four estimands; the fixed seed's from the stage that asked the deterministic mode."""
    said = seen.defended[stage]
    found = estimands(said, seen.label, tries=min(info.tries, said.shape[1]))
    return Accuracies(
        mean=rate(found.mean),
        worst=rate(found.worst),
        majority=rate(found.majority),
        fixed=share(seen.fixed[fixed] == seen.label),
        unstable=rate(found.unstable),
    )


def _by_attack(lines: Lines) -> tuple[ByAttack, ...]:
    found = [line for (stage, _), line in sorted(lines.items()) if stage == OBLIVIOUS]
    return tuple(
        ByAttack(
            attack=name,
            undefended=share([one for line in found for one in line.model_right[name]]),
            defended=share([one for line in found for one in line.right[name]]),
        )
        for name in found[0].right
    )


def _warnings(
    info: DefendedInfo,
    checks: tuple[Sanity, ...],
    gain: Difference,
) -> tuple[Finding, ...]:
    found = [
        finding(
            check.check,
            "warning",
            check.saw,
            "the attack, or the defence, is not what it should be, and the adaptive column may be too high",
            REMEDIES.get(check.check, "raise --budgets and --steps, and look at the model with holdfast doctor"),
        )
        for check in checks
        if check.holds is False
    ]
    if any(each.flat for each in info.openings):
        which = ", ".join(f"{each.name}: {each.flat}" for each in info.openings if each.flat)
        found.append(
            finding(
                "closed opening",
                "note",
                f"no gradient passes through {which}",
                "the searches went through the other openings",
                "a straight-through backward pass would open it",
            )
        )
    if gain.low > 0:
        found.append(
            finding(
                "gain",
                "note",
                f"the defended model keeps {100 * gain.value:+.1f} points that the undefended one loses",
                "few gains of defences at inference have stood up to attacks that others made for them",
                "attack it with a larger budget, and with an attack of its own, before it is believed",
            )
        )
    return tuple(found)


REMEDIES = {
    "flat curve": "raise --budgets, for example to 1 5 20 50",
    "black box": "gradients are masked: give the defence an opening with a straight-through backward pass",
    "large radius": "gradients are masked: give the defence an opening with a straight-through backward pass",
}
