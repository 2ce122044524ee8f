"""Runs a model along the frames of perturbed images, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.audit.corrupted.notes import finding
from holdfast.audit.corrupted.run import uint8_images
from holdfast.audit.divided import Tally, Watcher, agree, opened, pieces
from holdfast.audit.perturbed.flips import ALEXNET_FLIPS, EXTRA, FURTHEST, TEST, flips, top5_distances
from holdfast.audit.ranks import Alone, Ranks, by_first, taken
from holdfast.audit.run import data_info, look, versions
from holdfast.audit.session import logarithmic
from holdfast.data.ahead import Ahead
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadModel, BadValue, UnknownName
from holdfast.foundation.stats import bounded_mean
from holdfast.imaging.variant import variant_for
from holdfast.models.doctor import raise_errors
from holdfast.models.model import Model
from holdfast.perturbations.perturbation import Perturbation, check_difficulty, draw_keys
from holdfast.records.conditions import Mean
from holdfast.records.files import write_atomic
from holdfast.records.part import SAMPLES, SUMMARY
from holdfast.records.schema import Finding
from holdfast.records.sequences import (
    FOLDER,
    Sequences,
    SequencesInfo,
    SequencesRow,
    SequencesSummary,
    finished_sequences,
    measured,
    read_sequences_summary,
    sequences_store,
)

GROUPS = ("all", "test", "extra")
"""What can be asked for in place of names: the 10 that count (all and test), the extra ones."""

FILM = 8
"""How many frames of an image the report shows of each perturbation."""

_PIXELS = 64 * 31 * 32 * 32
"""How many pixels of one channel the frames of a chunk have, at most."""


@dataclass(frozen=True)
class Asked:
    """What a run over perturbations was asked for, checked."""

    perturbations: dict[str, Perturbation]
    difficulty: int
    variant: str
    seed: int

    def frames(self, name: str, ids: np.ndarray, clean: Tensor) -> Tensor:
        """The frames (n,F,C,H,W) uint8 of the images ``ids`` (n,), which are ``clean`` (n,C,H,W) uint8."""
        keys = draw_keys(self.seed, name, torch.from_numpy(np.ascontiguousarray(ids)).to(clean.device))
        return self.perturbations[name](clean, keys, difficulty=self.difficulty, variant=self.variant)


def asked(
    source: Source,
    *,
    perturbations: Sequence[str] = ("all",),
    difficulty: int = 1,
    variant: str | None = None,
    seed: int = 0,
) -> Asked:
    """What was asked for, checked before any work.

    Args:
        source: the clean images.
        perturbations: names, or of `GROUPS`.
        difficulty: 1, 2 or 3: stronger noise, and frames that are further apart.
        variant: whose constants to take; by the size of the images unless given.
        seed: of the draws.

    Raises:
        UnknownName: a perturbation or variant that is not there, with the nearest names.
        BadValue: a difficulty that does not exist, a variant for images of another size.
        BadData: images that cannot be perturbed.
    """
    if source.shape[0] not in (1, 3):
        raise BadData(
            f"images of {source.shape[0]} channels cannot be perturbed", hint="give grey or RGB images: 1 or 3 channels"
        )
    known = [*TEST, *EXTRA]
    every = sorted(registry.names("perturbation"), key=lambda name: (known.index(name) if name in known else 99, name))
    kinds = {name: registry.load("perturbation", name) for name in every}
    groups = {
        "all": [name for name in every if kinds[name].standing == "test"],
        "test": [name for name in every if kinds[name].standing == "test"],
        "extra": [name for name in every if kinds[name].standing == "extra"],
    }
    chosen: set[str] = set()
    for name in perturbations:
        if name not in kinds and name not in groups:
            raise UnknownName.among("perturbation", name, [*every, *groups])
        chosen |= set(groups.get(name, [name]))
    if not chosen:
        raise BadValue("no perturbation is given", hint="for example perturbations=['all']")
    made = {name: kinds[name]() for name in every if name in chosen}
    return Asked(made, check_difficulty(difficulty), variant_for(source.shape[1:], variant), seed)


def describe_sequences(
    model: Model,
    source: Source,
    question: Asked,
    *,
    name: str,
    command: str = "",
    request: dict[str, Any] | None = None,
) -> SequencesInfo:
    """The run as it will be written; the doctor looks at the model first.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands.
    """
    findings = look(model, source).findings
    raise_errors(findings)
    standing: dict[str, Literal["test", "extra"]] = {key: each.standing for key, each in question.perturbations.items()}
    side = source.shape[1] * source.shape[2]
    return SequencesInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        perturbations=tuple(question.perturbations),
        standing=standing,
        difficulty=question.difficulty,
        variant=question.variant,
        seed=question.seed,
        chunk=int(min(64, max(1, _PIXELS // (31 * side)))),
        model=model.info(),
        data=data_info(source),
        findings=findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def evaluate_sequences(
    model: Model,
    source: Source,
    info: SequencesInfo,
    question: Asked,
    folder: Path,
    divisor: Divisor,
    *,
    watch: Watcher | None = None,
    ranks: Ranks | None = None,
) -> SequencesSummary:
    """Runs or resumes what ``info`` describes, in ``folder``, and concludes it. A finished run is only read.

    Args:
        divisor: what flip probabilities are divided by, see `divided_by`.
        ranks: the processes that share the work, each of which calls this.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`.
        BadModel: the model fails on a frame; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    ranks = ranks or Alone()
    known = by_first(ranks, lambda: finished_sequences(folder, info))
    if known:
        if known.baseline == divisor.name:
            return known
        seconds = known.seconds
    else:
        seconds = _run(model, source, info, question, folder, watch, ranks)
    return by_first(ranks, lambda: _conclude(folder, info, question, source, divisor, seconds))


@dataclass(frozen=True)
class Divisor:
    """What flip probabilities are divided by: those of the model ``name``; nothing where there are none."""

    name: str = ""
    flips: Mapping[str, float] = field(default_factory=dict)


def divided_by(baseline: str | Path | None, info: SequencesInfo) -> Divisor:
    """What the flip rates of this run divide by.

    Args:
        baseline: ``alexnet``, or the folder of another model's run; AlexNet for all 10 on ImageNet's 1,000 classes at the
            variant 224 and difficulty 1 unless given, else nothing.

    Raises:
        BadFile: the folder holds no finished run over perturbations.
        BadValue: the baseline was not measured on these perturbations, or never changed its mind.
    """
    counted = [name for name in info.perturbations if info.standing[name] == "test"]
    of_imagenet = len(info.data.class_names) == 1000 and info.variant == "224" and info.difficulty == 1
    if baseline is None and not (of_imagenet and set(TEST) <= set(counted)):
        return Divisor()
    if baseline is None or baseline == "alexnet":
        found = Divisor("AlexNet", ALEXNET_FLIPS)
    else:
        summary = read_sequences_summary(Path(baseline))
        found = Divisor(summary.name, {row.perturbation: row.flip_probability.value for row in summary.rows})
    for name in counted:
        if found.flips.get(name, 0) <= 0:
            raise BadValue(
                f"the baseline {found.name} has no flips for {name}, so that nothing can be divided by them",
                hint="run the baseline's model on the same perturbations first, or leave that one out",
            )
    return found


def _run(
    model: Model,
    source: Source,
    info: SequencesInfo,
    question: Asked,
    folder: Path,
    watch: Watcher | None,
    ranks: Ranks,
) -> float:
    ids = np.asarray(source.ids)
    classifier = logarithmic(model.module, info.findings)
    with opened(lambda rank: sequences_store(folder, info, rank), ranks) as store:
        before = sum(min(info.chunk, len(ids) - first) for _, first in store.done)
        total = len(ids) * len(info.perturbations)
        tally = Tally("perturbations", ranks, before=before, total=total, watch=watch)
        todo = [
            [(name, first) for name in info.perturbations if (name, first) not in store.done]
            for first in range(0, len(ids), info.chunk)
        ]
        at, clean = -1, None
        with frozen(model.module), rng_kept(model.device), Ahead(source) as ahead:
            if ranks.world == 1:  # else nobody knows which images will be this process's
                ahead.expect(ids)
            for piece in taken(pieces(todo, ranks), ranks, "perturbations taken"):
                for name, first in piece:
                    part = ids[first : first + info.chunk]
                    if clean is None or first != at:
                        at, clean = first, uint8_images(ahead.take(part).images).to(model.device)
                    store.append(_line(classifier, model, question, name, first, part, clean))
                    tally.add(name, len(part))
        agree(store, ranks)
        tally.close()
    return tally.seconds


def _line(
    classifier: Callable[[Tensor], Tensor],
    model: Model,
    question: Asked,
    name: str,
    first: int,
    ids: np.ndarray,
    clean: Tensor,
) -> Sequences:
    frames = question.frames(name, ids, clean)
    logits = torch.cat(
        [engine.predict(classifier, some.to(model.dtype) / 255) for some in frames.flatten(0, 1).split(256)]
    )
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits).all(1)).nonzero()[0, 0]) // frames.shape[1]
        raise BadModel(
            f"the model's logits are not finite (NaN or infinite) on the sample {ids[bad]} under {name}",
            hint="look for divisions by zero or half-precision overflow",
        )
    shape = frames.shape[:2]
    ranked = logits.topk(min(5, logits.shape[1]), 1).indices.view(*shape, -1).cpu().numpy()
    rule = {"noise": question.perturbations[name].noise, "difficulty": question.difficulty}
    return Sequences(
        perturbation=name,
        first=first,
        frames=int(shape[1]),
        flips=tuple(flips(ranked[..., 0], **rule).tolist()),
        distances=tuple(top5_distances(ranked, **rule).tolist()) if ranked.shape[2] == 5 else (),
    )


def _conclude(
    folder: Path,
    info: SequencesInfo,
    question: Asked,
    source: Source,
    divisor: Divisor,
    seconds: float,
) -> SequencesSummary:
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
