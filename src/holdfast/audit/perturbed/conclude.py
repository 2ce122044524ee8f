"""The numbers of a run over perturbations, from what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from holdfast.audit.corrupted.notes import finding
from holdfast.audit.feed import uint8_images
from holdfast.audit.perturbed.flips import FURTHEST
from holdfast.audit.perturbed.question import Asked, Divisor
from holdfast.data.source import Source
from holdfast.foundation.stats import bounded_mean
from holdfast.records.conditions import Mean
from holdfast.records.files import write_atomic
from holdfast.records.part import SAMPLES, SUMMARY
from holdfast.records.schema import Finding
from holdfast.records.sequences import FOLDER, SequencesInfo, SequencesRow, SequencesSummary, measured

FILM = 8
"""How many frames of an image the report shows of each perturbation."""


def conclude_sequences(
    folder: Path,
    info: SequencesInfo,
    question: Asked,
    source: Source,
    divisor: Divisor,
    seconds: float,
) -> SequencesSummary:
    """Writes ``summary.json``, from the lines alone, and ``samples.safetensors``. Raises BadFile, StorageError."""
    flipped, moved, frames = measured(folder, info.data.n)
    counted = tuple(each for each in info.perturbations if info.standing[each] == "test")
    rows = [
        SequencesRow(
            perturbation=each,
            frames=frames[each],
            flip_probability=_mean(flipped[each], info.seed),
            flip_rate=float(flipped[each].mean()) / divisor.flips[each] if divisor.flips.get(each) else None,
            top5_distance=_mean(moved[each], info.seed, FURTHEST) if each in moved else None,
        )
        for each in info.perturbations
    ]
    summary = SequencesSummary(
        name=info.name,
        n=info.data.n,
        rows=tuple(rows),
        counted=counted,
        mean_flip_probability=_mean(np.mean([flipped[each] for each in counted], 0), info.seed) if counted else None,
        mean_top5_distance=(
            _mean(np.mean([moved[each] for each in counted], 0), info.seed, FURTHEST)
            if counted and counted[0] in moved
            else None
        ),
        baseline=divisor.name if counted else "",
        mfr=(
            _mean(
                np.mean([flipped[each] / divisor.flips[each] for each in counted], 0),
                info.seed,
                float(np.mean([1 / divisor.flips[each] for each in counted])),
            )
            if divisor.flips and counted
            else None
        ),
        forwards=info.data.n * sum(frames.values()),
        seconds=seconds,
        warnings=_notes(info, divisor.name),
    )
    write_atomic(folder / FOLDER / SAMPLES, [_films(info, question, source)])
    write_atomic(folder / FOLDER / SUMMARY, [summary.model_dump_json(indent=2).encode()])
    return summary


def _mean(values: np.ndarray, seed: int, most: float = 1.0) -> Mean:
    found = bounded_mean(values, most=most, seed=seed)
    return Mean(value=found.value, low=found.low, high=found.high)


def _notes(info: SequencesInfo, baseline: str) -> tuple[Finding, ...]:
    if baseline != "AlexNet" or info.variant != "224":
        return ()
    return (
        finding(
            "no film",
            "note",
            "frames were made in memory; ImageNet-P's were stored as H.264 films, and moved before they were cropped",
            "flip rates differ somewhat from those on the released files",
            "compare with numbers that were made in the same way",
        ),
    )


def _films(info: SequencesInfo, question: Asked, source: Source) -> bytes:
    """``ids`` (1,) and ``frames`` (1, perturbations, `FILM`, C, H, W): evenly spaced frames of the middle image, uint8."""
    ids = np.asarray(source.ids)
    chosen = ids[len(ids) // 2 : len(ids) // 2 + 1]
    clean = uint8_images(source.take(chosen).images)
    step = 2 if max(source.shape[1:]) > 96 else 1
    rows = []
    for name in info.perturbations:
        film = question.frames(name, chosen, clean)[:, :, :, ::step, ::step]
        rows.append(film[:, np.linspace(0, film.shape[1] - 1, FILM).astype(int)].numpy())
    return save({"ids": np.ascontiguousarray(chosen), "frames": np.ascontiguousarray(np.stack(rows, 1))})
