"""Runs a model on corrupted images, condition by condition, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Classifier
from holdfast.audit.corrupted.error import TEST, VALIDATION
from holdfast.audit.corrupted.overlap import overlap
from holdfast.audit.divided import Tally, Watcher, agree, opened, pieces
from holdfast.audit.ranks import Ranks, taken
from holdfast.audit.run import data_info, look, versions
from holdfast.audit.session import logarithmic
from holdfast.corruptions.corruption import SEVERITIES, Corruption, check_severity, draw_keys, variant_for
from holdfast.data.ahead import Ahead
from holdfast.data.released import Released, check_belongs
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.foundation.errors import BadData, BadModel, BadValue, UnknownName
from holdfast.imaging.jpeg import compressed
from holdfast.models.doctor import raise_errors
from holdfast.models.model import Model
from holdfast.records.conditions import ConditionsInfo, Frost, Outcomes, Standing, conditions_store
from holdfast.records.part import Part
from holdfast.records.schema import CLEAN

GROUPS = ("all", "test", "validation", "held_out")
"""What can be asked for in place of names: the 15 and our own, the 15, the 4 extra ones, our own that nobody trains on."""

PIXELS = 256 * 32 * 32
"""How many pixels of one channel a chunk has, at most."""


class Supply(Protocol):
    """Where corrupted images come from: generated here, or read from released files."""

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        """The images ``ids`` (n,), which are ``clean`` (n,C,H,W) uint8, under that condition: the same shape and type."""
        ...


@dataclass(frozen=True)
class Generated:
    """Images corrupted on the fly: a pure function of (seed, corruption, severity, image id).

    Args:
        corruptions: by name; ``variant``: of their tables; ``seed``: of their draws.
        jpeg: save and load each image as JPEG of this quality, as ImageNet-C's released images were (85).
    """

    corruptions: dict[str, Corruption]
    variant: str
    seed: int
    jpeg: int | None = None

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        keys = draw_keys(self.seed, corruption, severity, torch.from_numpy(np.ascontiguousarray(ids)).to(clean.device))
        made = self.corruptions[corruption](clean, severity, keys, variant=self.variant)
        return compressed(made, self.jpeg) if self.jpeg else made


@dataclass(frozen=True)
class Stored:
    """Images of released files, by the ids of the clean ones."""

    released: Released

    def __call__(self, corruption: str, severity: int, ids: np.ndarray, clean: Tensor) -> Tensor:
        return torch.from_numpy(self.released.take(corruption, severity, ids).images).to(clean.device)


@dataclass(frozen=True)
class Asked:
    """What a run over corruptions was asked for, checked. ``info`` fields of the same names say what each means."""

    corruptions: tuple[str, ...]
    standing: dict[str, Standing]
    severities: tuple[int, ...]
    variant: str
    supply: Supply
    frost: Frost
    jpeg: int | None
    released: Released | None
    seed: int


def asked(
    source: Source,
    *,
    corruptions: Sequence[str] = ("all",),
    severities: Sequence[int] = SEVERITIES,
    variant: str | None = None,
    frost: Sequence[np.ndarray] = (),
    jpeg: int | None = None,
    released: Released | None = None,
    seed: int = 0,
) -> Asked:
    """What was asked for, checked before any work.

    Args:
        source: the clean images.
        corruptions: names, or of `GROUPS`.
        severities: of 1 to 5.
        variant: whose constants to take; by the size of the images unless given.
        frost: the photographs of the original benchmark, (3,H,W) uint8; a procedural frost unless given.
        jpeg: the quality of a JPEG that every image goes through after its corruption.
        released: files to read the images from in place of making them.
        seed: of the draws.

    Raises:
        UnknownName: a corruption or variant that is not there, with the nearest names.
        BadValue: a severity or quality that does not exist, a variant for images of another size.
        BadData: images that cannot be corrupted, or released files of other images.
    """
    if source.shape[0] not in (1, 3):
        raise BadData(
            f"images of {source.shape[0]} channels cannot be corrupted", hint="give grey or RGB images: 1 or 3 channels"
        )
    if jpeg is not None and (released is not None or not 1 <= jpeg <= 100):
        raise BadValue(
            f"jpeg is {jpeg} {'for released files' if released is not None else ''}".rstrip(),
            hint="give a quality from 1 to 100 for images that are made here; ImageNet-C used 85",
        )
    levels = tuple(sorted({check_severity(severity) for severity in severities}))
    if not levels:
        raise BadValue("no severity is given", hint="leave severities out for 1 to 5")
    chosen = variant_for(source.shape[1:], variant)
    if released is not None:
        check_belongs(released, source)
        found = {name: _standing(name) for name in _ordered(released.corruptions)}
        names = _named(corruptions, found, where=f"corruption in {released.name}")
        origin: Frost = "released files" if "frost" in names else ""
        return Asked(names, found, levels, chosen, Stored(released), origin, None, released, seed)
    kinds = {name: registry.load("corruption", name) for name in _ordered(registry.names("corruption"))}
    names = _named(corruptions, {name: kind.standing for name, kind in kinds.items()}, where="corruption")
    made: dict[str, Corruption] = {}
    pictures = tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in frost)
    for name in names:
        made[name] = kinds[name](pictures=pictures) if name == "frost" else kinds[name]()
    told: Frost = ("photographs" if frost else "procedural") if "frost" in names else ""
    standing: dict[str, Standing] = {name: kinds[name].standing for name in names}
    return Asked(names, standing, levels, chosen, Generated(made, chosen, seed, jpeg), told, jpeg, None, seed)


def _ordered(names: Sequence[str]) -> list[str]:
    """The benchmark's order, then the alphabet."""
    known = [*TEST, *VALIDATION]
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _standing(name: str) -> Standing:
    return "test" if name in TEST else "validation" if name in VALIDATION else "foreign"


def _named(given: Sequence[str], standing: Mapping[str, str], *, where: str) -> tuple[str, ...]:
    groups = {
        "all": [name for name, kind in standing.items() if kind in ("test", "held_out", "foreign")],
        **{group: [name for name, kind in standing.items() if kind == group] for group in GROUPS[1:]},
    }
    found: set[str] = set()
    for name in given:
        if name not in standing and name not in groups:
            raise UnknownName.among(where, name, [*standing, *groups])
        if name in groups and not groups[name]:
            raise BadValue(f"there is no {where} of the group {name}", hint=f"name some of: {', '.join(standing)}")
        found |= set(groups.get(name, [name]))
    if not found:
        raise BadValue("no corruption is given", hint="for example corruptions=['all']")
    return tuple(name for name in standing if name in found)


def describe_conditions(
    model: Model,
    source: Source,
    question: Asked,
    *,
    name: str,
    adaptation: str = "",
    command: str = "",
    request: dict[str, Any] | None = None,
) -> ConditionsInfo:
    """The run as it will be written; the doctor looks at the model first.

    Raises:
        BadModel, BadData: it cannot be evaluated as it stands.
    """
    findings = look(model, source).findings
    raise_errors(findings)
    if adaptation and any(each.check == "probabilities" for each in findings):
        raise BadModel(
            f"the model returns probabilities, and {adaptation} adapts logits",
            hint="take the softmax out of the model; it is not needed to classify",
        )
    images, released = data_info(source), question.released.fingerprint() if question.released else ""
    return ConditionsInfo(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        corruptions=question.corruptions,
        standing=question.standing,
        severities=question.severities,
        variant=question.variant,
        origin="released files" if question.released else "generated",
        frost=question.frost,
        jpeg=question.jpeg,
        adaptation=adaptation,
        seed=question.seed,
        chunk=chunk_of(source),
        model=model.info(),
        data=images.model_copy(update={"fingerprint": images.fingerprint + released}),
        overlap=overlap(model.declared, question.corruptions),
        findings=findings,
        versions=versions(),
        command=command,
        request=request or {},
    )


def chunk_of(source: Source) -> int:
    """How many images of a source are corrupted and evaluated at once."""
    return int(min(256, max(16, PIXELS // (source.shape[1] * source.shape[2]))))


def uint8_images(images: np.ndarray) -> Tensor:
    """Images of a source, uint8 or floats in [0, 1], as a uint8 tensor (n,C,H,W); floats are rounded."""
    exact = images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(exact))


def run_conditions(
    model: Model,
    source: Source,
    info: ConditionsInfo,
    question: Asked,
    folder: Path,
    *,
    ranks: Ranks,
    adapt: Callable[[Model], Classifier] | None = None,
    watch: Watcher | None = None,
) -> float:
    """Evaluates everything that ``folder`` does not hold yet; returns the seconds that it took.

    Args:
        ranks: the processes that share the work. Each of them calls this.
        adapt: makes a classifier that adapts to the images it is shown; every condition begins with a fresh one, sees its
            images in their order, and is written when it is whole, because a half-adapted model cannot be resumed.

    Raises:
        PlanMismatch, StorageError, BadFile: as `holdfast.records.part.part`.
        BadModel: the model fails on an image; what is finished stays finished.
        Incomplete: another process ended; likewise.
    """
    shared = opened(lambda rank: conditions_store(folder, info, rank), ranks)
    with shared as store, frozen(model.module), rng_kept(model.device):
        return _Sweep(model, source, info, question, store, watch, ranks).run(adapt)


class _Sweep:
    """The work of a run from where its store stands to its end."""

    def __init__(
        self,
        model: Model,
        source: Source,
        info: ConditionsInfo,
        question: Asked,
        store: Part[Outcomes],
        watch: Watcher | None,
        ranks: Ranks,
    ) -> None:
        self.model, self.source, self.info = model, source, info
        self.question, self.store, self.ranks = question, store, ranks
        self.ahead = Ahead(source)
        self.conditions = [(CLEAN, 0), *((name, level) for name in info.corruptions for level in info.severities)]
        self.chunks = list(range(0, len(source), info.chunk))
        before = sum(min(info.chunk, len(source) - first) for _, _, first in store.done)
        total = len(self.conditions) * len(source)
        self.tally = Tally("corruptions", ranks, before=before, total=total, watch=watch)

    def run(self, adapt: Callable[[Model], Classifier] | None) -> float:
        # Chunk by chunk, so that an image is decoded once; a classifier that adapts needs condition by condition.
        with self.ahead:
            for lines in self._by_condition(adapt) if adapt else self._by_chunk():
                for line in lines:
                    self.store.append(line)
                what = f"{lines[-1].corruption} {lines[-1].severity or ''}".strip()
                self.tally.add(what, sum(len(line.label) for line in lines))
        agree(self.store, self.ranks)
        self.tally.close()
        return self.tally.seconds

    def _by_chunk(self) -> Iterator[list[Outcomes]]:
        classifier = logarithmic(self.model.module, self.info.findings)
        todo = [
            [(*each, first) for each in self.conditions if (*each, first) not in self.store.done]
            for first in self.chunks
        ]
        self._expect()
        at, images = -1, None
        for piece in taken(pieces(todo, self.ranks), self.ranks, "corruptions taken"):
            for name, level, first in piece:
                if images is None or first != at:
                    at, images = first, self._images(first)
                yield [self._outcomes(classifier, name, level, first, *images)]

    def _by_condition(self, adapt: Callable[[Model], Classifier]) -> Iterator[list[Outcomes]]:
        left = [
            (*each, [first for first in self.chunks if (*each, first) not in self.store.done])
            for each in self.conditions
        ]
        for name, level, missing in taken([each for each in left if each[-1]], self.ranks, "corruptions taken"):
            classifier = adapt(self.model)
            self._expect()
            found = [self._outcomes(classifier, name, level, first, *self._images(first)) for first in self.chunks]
            yield [line for line in found if line.first in missing]

    def _expect(self) -> None:
        if self.ranks.world == 1:  # else nobody knows which images will be this process's
            self.ahead.expect(self.source.ids)

    def _images(self, first: int) -> tuple[Tensor, Tensor]:
        batch = self.ahead.take(np.asarray(self.source.ids)[first : first + self.info.chunk])
        return uint8_images(batch.images).to(self.model.device), torch.from_numpy(np.asarray(batch.labels))

    def _outcomes(
        self, classifier: Classifier, name: str, level: int, first: int, clean: Tensor, labels: Tensor
    ) -> Outcomes:
        ids = np.asarray(self.source.ids)[first : first + len(clean)]
        images = clean if name == CLEAN else self.question.supply(name, level, ids, clean)
        logits = engine.predict(classifier, images.to(self.model.dtype) / 255)
        finite = torch.isfinite(logits).all(1)
        if not bool(finite.all()):
            raise BadModel(
                f"the model's logits are not finite (NaN or infinite) on the sample {ids[int((~finite).nonzero()[0, 0])]} "
                f"under {name}, severity {level}",
                hint="look for divisions by zero or half-precision overflow",
            )
        confidence, predicted = logits.double().softmax(1).max(1)
        return Outcomes(
            corruption=name,
            severity=level,
            first=first,
            label=tuple(labels.tolist()),
            predicted=tuple(predicted.tolist()),
            confidence=tuple(round(value, 5) for value in confidence.tolist()),
        )
