"""The audit that a training ends with: its most robust weights, by the plan `fast`, on images that chose nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.audit import plan as plans
from holdfast.audit.description import describe
from holdfast.audit.preflight import examined
from holdfast.audit.ranks import Alone, Apart, Ranks
from holdfast.audit.run import lend_a_hand, run
from holdfast.audit.session import Watcher
from holdfast.data.source import Source, subset
from holdfast.foundation.stats import wilson
from holdfast.models.load import load
from holdfast.records.document import read_document
from holdfast.records.schema import Rate, Summary
from holdfast.records.store import read_records, read_summary
from holdfast.threats.threat import Threat
from holdfast.training.folder import ROBUST, RUN, TrainingInfo

FOLDER = "audit"
"""Where in the training's folder it is written; with the set's name behind where there are several."""

IMAGES = 1000
"""Images of the audit, at most: a seeded subset of the source."""


def verdict(
    out: Path,
    source: Source,
    threat: Threat,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
) -> Summary | None:
    """Audits ``best_robust.safetensors`` of a finished training; None for a process that is not the first.

    Args:
        out: the folder of the training; ``folder``: where the audit is written.
        source: test images; a seeded subset of at most `IMAGES` is audited.
        threat: what to audit against, of a radius above 0.
        watch: told of the progress.
        ranks: the processes that share the audit, all of which call this.

    Raises:
        BadValue: the plan does not know this threat.
        BadModel, BadData: the net cannot be audited on these images.
    """
    plan = plans.named("fast", threat)
    info = read_document(out / RUN, TrainingInfo)
    chosen = subset(source, min(IMAGES, len(source)), seed)
    given = info.net if ":" in info.net else f"net:{info.net}"
    model = load(given, weights=out / ROBUST, shape=chosen.shape, options=info.options, device=device)
    ranks = Apart(ranks or Alone(), folder.name)
    if ranks.rank:
        lend_a_hand(model, chosen, folder, threat=threat, plan=plan, slots=None, ranks=ranks)
        return None
    described = describe(
        model,
        chosen,
        threat=threat,
        curve=(),
        plan=plan,
        seed=seed,
        preflight=examined(model, chosen, plan, threat),
        name=model.name,
        command=info.command,
        request={"model": given, "weights": str(out / ROBUST), "options": json.dumps(info.options)},
    )
    return run(model, chosen, described, folder, threat=threat, plan=plan, watch=watch, ranks=ranks)


def robust_to_all(folders: Sequence[Path]) -> Rate:
    """The share of images that no audit of several broke, or failed on, from their records; all are of the same images."""
    seen, broken = set(), set()
    for folder in folders:
        for record in read_records(folder):
            seen.add(record.id)
            if record.fooled:
                broken.add(record.id)
        failed = {failure.id for failure in read_summary(folder).failed}
        seen |= failed
        broken |= failed
    found = wilson(len(seen) - len(broken), len(seen))
    return Rate(value=1 - len(broken) / len(seen), n=len(seen), low=found.low, high=found.high)
