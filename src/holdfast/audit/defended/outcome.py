"""What the lines of an audit of a defence hold, gathered over images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.foundation.errors import BadFile
from holdfast.foundation.stats import Interval, mcnemar, wilson
from holdfast.probes.clustered import clustered
from holdfast.records.defended import BLACK_BOX, LARGE, Attacked, DefendedInfo, Difference, Level, adaptive
from holdfast.records.schema import CLEAN, Rate

ROUNDING = 1e-9

Lines = Mapping[tuple[str, int], Attacked]


@dataclass(frozen=True)
class Gathered:
    """Stage -> arrays over the images in their order: ``label`` (n,), ``undefended`` (n,), ``defended`` (n, m), ``fixed``
    (n,) or (0,)."""

    label: np.ndarray
    undefended: dict[str, np.ndarray]
    defended: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray]

    def right(self, stage: str) -> np.ndarray:
        """Whether each fresh evaluation is right, (n, m) bool."""
        return self.defended[stage] == self.label[:, None]


def gathered(lines: Lines, info: DefendedInfo) -> Gathered:
    """The stages that are whole, without the checks, whose points are another set's or begin elsewhere.

    Raises:
        BadFile: a line does not fit the images.
    """
    stages: dict[str, list[Attacked]] = {}
    for (stage, _), line in sorted(lines.items(), key=lambda item: item[0][1]):
        stages.setdefault(stage, []).append(line)
    whole = {
        name: found
        for name, found in stages.items()
        if name not in (LARGE, BLACK_BOX) and sum(len(line.ids) for line in found) == info.data.n
    }
    if CLEAN not in whole:
        raise BadFile("the audit lacks its clean images", hint="run the same audit again: it goes on where it stopped")

    def column(stage: str, key: str) -> np.ndarray:
        return np.array([entry for line in whole[stage] for entry in getattr(line, key)], dtype=np.int64)

    return Gathered(
        column(CLEAN, "label"),
        *({stage: column(stage, key) for stage in whole} for key in ("undefended", "defended", "fixed")),
    )


def budgets(lines: Lines, info: DefendedInfo) -> list[int]:
    """The budgets that were spent, ascending."""
    return [each for each in info.budgets if (adaptive(each), 0) in lines]


def adaptive_stage(lines: Lines, info: DefendedInfo) -> str:
    """The stage of the largest budget."""
    return adaptive(budgets(lines, info)[-1])


def levels(lines: Lines, info: DefendedInfo) -> list[Step]:
    """What every budget left, from the points of the undefended model on."""
    seen = gathered(lines, info)
    found: list[Step] = []
    spent, before = 0, None
    for budget in budgets(lines, info):
        stage = adaptive(budget)
        spent += sum(line.gradients for (name, _), line in lines.items() if name == stage)
        right = seen.right(stage).mean(1)
        fall = None if before is None else before - right
        found.append(Step(budget, spent, share(right), fall))
        before = right
    return found


@dataclass(frozen=True)
class Step:
    """One budget: gradients so far for all images, the accuracy, and by how much each image's fell, (n,) or None."""

    budget: int
    gradients: int
    accuracy: Rate
    fell: np.ndarray | None

    @property
    def fall(self) -> float | None:
        return None if self.fell is None else float(self.fell.mean())

    @property
    def error(self) -> float | None:
        """The standard error of the fall, over images."""
        if self.fell is None:
            return None
        return float(self.fell.std(ddof=1)) / math.sqrt(len(self.fell)) if len(self.fell) > 1 else math.inf

    @property
    def flat(self) -> bool:
        """Whether more of the budget took off no more than the standard error, or nothing is left to take."""
        if self.fall is None or self.error is None:
            return self.accuracy.value == 0
        return self.fall <= self.error + ROUNDING

    def level(self, n: int) -> Level:
        return Level(
            budget=self.budget,
            gradients=round(self.gradients / max(1, n)),
            accuracy=self.accuracy,
            fall=self.fall,
            error=self.error,
        )


def share(values: np.ndarray | Iterable[float]) -> Rate:
    """The mean of a share that each image has, with its interval: Wilson's where every image is always right or wrong."""
    values = np.asarray(values, dtype=float)
    whole = bool(np.isin(values, (0.0, 1.0)).all())
    found = wilson(int(values.sum()), len(values)) if whole else clustered(values, least=0.0, most=1.0)
    return rate(found)


def paired(values: np.ndarray) -> Difference:
    """The mean of a difference that each image has, with its interval; McNemar's where every image is right or wrong."""
    if np.isin(values, (-1.0, 0.0, 1.0)).all():
        found = mcnemar(int((values > 0).sum()), int((values < 0).sum()), n=len(values)).difference
    else:
        found = clustered(values, least=-1.0, most=1.0)
    return Difference(value=found.value, low=found.low, high=found.high)


def rate(found: Interval) -> Rate:
    """An interval as the schema has it."""
    return Rate(value=found.value, n=found.n, low=found.low, high=found.high)
