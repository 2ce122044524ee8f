"""What stands against comparing a run's numbers with published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.records.conditions import ConditionsInfo
from holdfast.records.schema import Finding

LEAST_MISTAKES = 20
"""The count of as many rare events varies by its root, 22 %."""


def notes(info: ConditionsInfo) -> tuple[Finding, ...]:
    """What stands against comparing this run's numbers with published ones."""
    found = []
    if info.overlap.touched:
        which = ", ".join(f"{name} ({', '.join(ops)})" for name, ops in info.overlap.touched.items())
        found.append(
            finding(
                "trained on the test",
                "warning",
                f"the model declares training operations of the family of {which}",
                "errors there say how well it remembers its training, not how it generalises",
                "quote the mean over the untouched corruptions",
            )
        )
    if info.overlap.unknown:
        found.append(
            finding(
                "unknown operations",
                "warning",
                f"the model declares the training operations {', '.join(info.overlap.unknown)}",
                "nobody can say which corruptions they touch",
                "look them up before you compare this model with others",
            )
        )
    if info.overlap.declared is None:
        found.append(
            finding(
                "training unknown",
                "note",
                "the weights do not declare which image operations they were trained with",
                "some of the corruptions may have been among them",
                "ask the model's author; weights that holdfast trains declare it",
            )
        )
    if info.frost == "procedural" and info.variant == "224":
        found.append(
            finding(
                "procedural frost",
                "note",
                "frost was made here, without the benchmark's photographs",
                "the mean over the 15 is not the published mCE",
                "give the photographs with --frost-dir",
            )
        )
    if info.origin == "generated" and info.variant == "224" and info.jpeg is None:
        found.append(
            finding(
                "no JPEG",
                "note",
                "images were corrupted in memory; ImageNet-C's released ones were saved as JPEG of quality 85",
                "numbers differ from those on the released files, by up to several points",
                "give --jpeg 85, or the files themselves with --released",
            )
        )
    if info.adaptation:
        found.append(
            finding(
                "adapts on the test data",
                "warning",
                f"the model was adapted to the corrupted images by {info.adaptation}",
                "the number depends on the order and the batches, and compares with other adapted models only",
                "keep it in a column of its own",
            )
        )
    return tuple(found)


def thin(baseline: str, mistakes: Mapping[str, int]) -> tuple[Finding, ...]:
    """What stands against ratios to a baseline that was wrong so rarely: ``mistakes`` by corruption."""
    few = {name: count for name, count in mistakes.items() if count < LEAST_MISTAKES}
    if not few:
        return ()
    counts = ", ".join(f"{name} ({count})" for name, count in few.items())
    saw = f"the baseline {baseline} gave fewer than {LEAST_MISTAKES} wrong answers under {counts}"
    means = (
        "errors are divided by its own, so that chance moves those ratios by more than a fifth; no interval tells that"
    )
    return (
        finding("thin baseline", "warning", saw, means, "measure the baseline on more images, or quote mean errors"),
    )


def finding(check: str, level: Any, saw: str, means: str, remedy: str) -> Finding:
    """A finding, its parts in the order of the sentence."""
    return Finding(check=check, level=level, saw=saw, means=means, remedy=remedy)
