"""From the outcomes under all conditions to the metrics of the benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from holdfast.audit.corrupted.error import (
    ALEXNET,
    ALEXNET_CLEAN,
    TEST,
    Errors,
    calibration_error,
    corruption_error,
    relative_corruption_error,
    shares,
)
from holdfast.audit.corrupted.notes import notes, thin
from holdfast.audit.corrupted.question import Asked
from holdfast.audit.feed import uint8_images
from holdfast.corruptions.corruption import SEVERITIES
from holdfast.data.source import Source
from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import bounded_mean, wilson
from holdfast.records.conditions import (
    FOLDER,
    Cell,
    ConditionsInfo,
    ConditionsSummary,
    Mean,
    Row,
    Seen,
    gathered,
    read_conditions_summary,
)
from holdfast.records.files import write_atomic
from holdfast.records.part import SAMPLES, SUMMARY
from holdfast.records.schema import CLEAN, Rate

PICTURES, LARGE = 2, 96
"""How many images the gallery shows under every condition; those larger than that are shown at every second pixel."""

_KEY = (CLEAN, 0)


@dataclass(frozen=True)
class Baseline:
    """The errors that a CE divides by: AlexNet's, or those of any model that was run on the same conditions.

    Args:
        name: of the model; ``errors``: of each corruption at the ``severities``; ``clean``: its error on clean images.
        n: on how many images each of them was measured.
    """

    name: str
    errors: Errors
    clean: float
    severities: tuple[int, ...] = SEVERITIES
    n: int = 50_000

    @staticmethod
    def named(given: str) -> Baseline:
        """AlexNet for ``alexnet``; else the run in that folder.

        Raises:
            BadFile: the folder holds no finished run over corruptions.
        """
        if given == "alexnet":
            return Baseline("AlexNet", ALEXNET, ALEXNET_CLEAN)
        summary = read_conditions_summary(Path(given))
        levels = tuple(sorted({cell.severity for cell in summary.cells}))
        return Baseline(summary.name, errors_of(summary.cells), summary.clean.error.value, levels, summary.n)


def errors_of(cells: Sequence[Cell]) -> dict[str, tuple[float, ...]]:
    """Corruption -> its errors by ascending severity."""
    found: dict[str, tuple[float, ...]] = {}
    for cell in sorted(cells, key=lambda each: each.severity):
        found[cell.corruption] = (*found.get(cell.corruption, ()), cell.error.value)
    return found


def standard_baseline(info: ConditionsInfo) -> Baseline | None:
    """AlexNet for the whole of ImageNet-C, the one place where its errors are known; else none."""
    whole = set(TEST) <= set(info.corruptions) and info.severities == SEVERITIES
    of_imagenet = len(info.data.class_names) == 1000 and info.variant == "224"
    return Baseline.named("alexnet") if whole and of_imagenet else None


def conclude_conditions(
    folder: Path, info: ConditionsInfo, question: Asked, source: Source, *, baseline: Baseline | None, seconds: float
) -> ConditionsSummary:
    """Writes ``summary.json`` and the few images of the gallery; a pure function of the outcomes, but for ``seconds``.

    Raises:
        BadFile: the outcomes are not whole.
        BadValue: the baseline was not measured on these conditions.
    """
    seen = gathered(folder, info.data.n)
    cells = {key: _cell(key, seen) for key in [_KEY, *((c, s) for c in info.corruptions for s in info.severities)]}
    errors = errors_of([cell for key, cell in cells.items() if key != _KEY])
    counted = tuple(name for name in info.corruptions if info.standing[name] == "test")
    main = {name: errors[name] for name in counted}
    clear = {name: errors[name] for name in counted if name not in info.overlap.touched}
    ours = {name: errors[name] for name in info.corruptions if info.standing[name] == "held_out"}
    touched = bool(info.overlap.touched) and clear
    ce: dict[str, float] = {}
    relative: dict[str, float] = {}
    if baseline and main:
        ce = corruption_error(main, baseline.errors)
        with contextlib.suppress(BadValue):  # a corruption that does not hurt the baseline leaves nothing to divide by
            relative = relative_corruption_error(main, cells[_KEY].error.value, baseline.errors, baseline.clean)
    known = [cell.calibration_error for key, cell in cells.items() if key[0] in counted]
    summary = ConditionsSummary(
        name=info.name,
        n=info.data.n,
        clean=cells[_KEY],
        cells=tuple(cell for key, cell in cells.items() if key != _KEY),
        rows=tuple(_row(name, errors[name], ce.get(name), relative.get(name), seen) for name in info.corruptions),
        counted=counted,
        mean_error=_mean(main, None, seen, info.seed),
        untouched=_mean(clear, None, seen, info.seed) if touched else None,
        held_out=_mean(ours, None, seen, info.seed),
        baseline=baseline.name if baseline and main else "",
        mce=_mean(main, baseline.errors, seen, info.seed) if baseline else None,
        mce_untouched=_mean(clear, baseline.errors, seen, info.seed) if baseline and touched else None,
        relative_mce=float(np.mean(list(relative.values()))) if relative else None,
        calibration_error=float(np.mean(known))
        if known
        else float(np.mean([c.calibration_error for c in cells.values()])),
        forwards=info.data.n * len(cells),
        seconds=seconds,
        warnings=notes(info) + (thin(baseline.name, _mistakes(baseline, counted)) if baseline else ()),
    )
    write_atomic(folder / FOLDER / SAMPLES, [_samples(info, question, source)])
    write_atomic(folder / FOLDER / SUMMARY, [summary.model_dump_json(indent=2).encode()])
    return summary


def check_baseline(baseline: Baseline, info: ConditionsInfo) -> None:
    """Refuses, before any work, a baseline without the errors that will be divided by. Raises BadValue."""
    for name in (each for each in info.corruptions if info.standing[each] == "test"):
        if name not in baseline.errors or baseline.severities != info.severities:
            raise BadValue(
                f"the baseline {baseline.name} has no errors for {name} at the severities {info.severities}",
                hint="run the baseline's model on the same corruptions and severities first",
            )
        if not sum(baseline.errors[name]):
            raise BadValue(
                f"the baseline {baseline.name} makes no error under {name}, so that nothing can be divided by it",
                hint="leave that corruption out, or take another baseline",
            )


def per_image(errors: Errors, baseline: Errors | None, seen: Seen) -> np.ndarray:
    """What each image adds to the mean over these corruptions, (n,): the mean of it over images is the mean (or mCE)."""
    total = np.zeros(len(seen.label))
    levels = sorted({severity for _, severity in seen.predicted if severity})
    for (name, place), share in shares(errors, baseline).items():
        total += share * ~seen.right((name, levels[place - 1]))
    return total


def _cell(key: tuple[str, int], seen: Seen) -> Cell:
    right = seen.right(key)
    interval = wilson(int((~right).sum()), len(right))
    rate = Rate(value=interval.value, n=interval.n, low=interval.low, high=interval.high)
    return Cell(
        corruption=key[0],
        severity=key[1],
        error=rate,
        calibration_error=calibration_error(seen.confidence[key].astype(np.float64), right),
    )


def _mistakes(baseline: Baseline, corruptions: Sequence[str]) -> dict[str, int]:
    """Corruption -> how many answers of the baseline were wrong, over all severities."""
    return {name: round(baseline.n * sum(baseline.errors[name])) for name in corruptions}


def _row(name: str, errors: Sequence[float], ce: float | None, relative: float | None, seen: Seen) -> Row:
    wrong = np.mean([~seen.right(key) for key in seen.predicted if key[0] == name], axis=0)
    classes = np.unique(seen.label)
    by_class = [float(wrong[seen.label == label].mean()) for label in classes]
    worst = int(np.argmax(by_class))
    return Row(
        corruption=name,
        mean_error=float(np.mean(errors)),
        ce=ce,
        relative_ce=relative,
        worst_class=int(classes[worst]),
        worst_class_error=by_class[worst],
    )


def _mean(errors: Errors, baseline: Errors | None, seen: Seen, seed: int) -> Mean | None:
    if not errors:
        return None
    found = bounded_mean(per_image(errors, baseline, seen), most=sum(shares(errors, baseline).values()), seed=seed)
    return Mean(value=found.value, low=found.low, high=found.high)


def _samples(info: ConditionsInfo, question: Asked, source: Source) -> bytes:
    """``ids`` (g,), ``clean`` (g,C,H,W) and ``corrupted`` (g, corruptions, severities, C, H, W), uint8."""
    ids = np.asarray(source.ids)
    chosen = np.unique(ids[np.linspace(0, len(ids) - 1, PICTURES + 2).astype(int)[1:-1]])
    clean = uint8_images(source.take(chosen).images)
    made = [[question.supply(name, level, chosen, clean) for level in info.severities] for name in info.corruptions]
    corrupted = torch.stack([torch.stack(row, 1) for row in made], 1).numpy()
    step = 2 if max(source.shape[1:]) > LARGE else 1
    tensors = {"ids": chosen, "clean": clean.numpy()[..., ::step, ::step], "corrupted": corrupted[..., ::step, ::step]}
    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
