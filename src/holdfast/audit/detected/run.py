"""Shows detectors clean, noisy and attacked images, writing as it goes; a stopped run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.meter import Meter
from holdfast.ascent.room import graphs_at_once
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.audit.defended.outcome import rate
from holdfast.audit.defended.search import climbed, most_certain
from holdfast.audit.defended.views import Tally, core_of
from holdfast.audit.detected.images import Images
from holdfast.audit.detected.options import EXTRA
from holdfast.audit.detected.views import Real, counted
from holdfast.audit.divided import Progress, Watcher
from holdfast.audit.feed import tensors
from holdfast.detectors.detector import Detector
from holdfast.detectors.evasion import WAYS, Unnoticed, evade
from holdfast.detectors.guard import Guard
from holdfast.foundation import registry
from holdfast.foundation.errors import BadModel
from holdfast.models.model import Model
from holdfast.records.detected import (
    ADAPTIVE,
    FOLDER,
    NOISE,
    OBLIVIOUS,
    POINTS,
    DetectedInfo,
    Judgement,
    Scored,
    detected_store,
    scored,
)
from holdfast.records.points import read_points, write_points
from holdfast.records.schema import CLEAN
from holdfast.threats.threat import Threat

LOSSES = ("margin", "ce")
"""What the oblivious attack climbs, in turn."""
EVERY = 5
"""After how many steps the adaptive attack holds a point against its best one."""


@dataclass(frozen=True)
class Subject:
    """What is under test: the model, the images, the detectors by their labels, and the set."""

    model: Model
    images: Images
    detectors: Mapping[str, Detector]
    threat: Threat


@dataclass(frozen=True)
class Estimate:
    """What a run will take, roughly: gradients and forwards of the model on one image, and seconds."""

    gradients: int
    forwards: int
    seconds: float


@dataclass(frozen=True)
class Ready:
    """A detector that was fitted and calibrated: its guard, whose evaluations of the model are counted in ``tally``, how
    many of them an answer takes, and how many evaluations of an image differ."""

    guard: Guard
    tally: Tally
    cost: float
    evaluations: int


def run_detected(
    subject: Subject,
    info: DetectedInfo,
    folder: Path,
    *,
    tell: Callable[[Estimate], None] | None = None,
    watch: Watcher | None = None,
) -> tuple[list[Scored], dict[str, Ready]]:
    """Fits and calibrates the detectors, and shows them everything that ``folder`` does not hold yet.

    Args:
        tell: called before the work with what is left of it, unless nothing is.

    Raises:
        BadModel, BadData: a detector cannot be fitted; nothing is written then.
        PlanMismatch, StorageError, BadFile: as `PartStore`.
        BadModel: a score is not finite; what is finished stays finished.
    """
    with frozen(subject.model.module), rng_kept(subject.model.device):
        session = _Session(subject, info, folder)
        session.run(tell, watch)
        return session.lines, session.ready


class _Session:
    """The work from where the folder stands to its end."""

    def __init__(self, subject: Subject, info: DetectedInfo, folder: Path) -> None:
        self.subject, self.info, self.folder = subject, info, folder
        self.model, self.threat = subject.model, subject.threat
        self.lines: list[Scored] = []
        module = core_of(self.model)
        self.module = Real(module) if info.extra else module
        self.ids = np.asarray(subject.images.tested.ids)
        self.core = search_copy(self.module, self._images(0)[0][:8]).module
        self.ready = {label: self._ready(detector) for label, detector in subject.detectors.items()}

    def run(self, tell: Callable[[Estimate], None] | None, watch: Watcher | None) -> None:
        began = time.monotonic()
        store = detected_store(self.folder, self.info)
        try:
            self.lines.extend(scored(self.folder))
            firsts = range(0, len(self.ids), self.info.chunk)
            todo = [(label, first) for label in self.ready for first in firsts if (label, first) not in store.done]
            spent = {key: self._spent(*key) for key in todo}
            each = {label: self._second(label) for label in dict.fromkeys(label for label, _ in todo)}
            # A gradient costs two forwards more than the one that it needs.
            work = {key: (2 * gradients + forwards) * each[key[0]] for key, (gradients, forwards) in spent.items()}
            total = sum(work.values())
            if todo and tell:
                gradients, forwards = (round(sum(column)) for column in zip(*spent.values()))
                tell(Estimate(gradients, forwards, total))
            for place, (label, first) in enumerate(todo):
                line = self._scored(label, first)
                store.append(line)
                self.lines.append(line)
                if watch:
                    left = sum(work[key] for key in todo[place + 1 :])
                    seconds = time.monotonic() - began
                    eta = left * seconds / (total - left) if total > left else None
                    done = sum(len(one.ids) for one in self.lines)
                    watch(Progress(label, done, len(self.ids) * len(self.ready), seconds, eta))
        finally:
            store.close()

    def _ready(self, detector: Detector) -> Ready:
        """Fitted on the training images, its threshold set on the held-out ones."""
        images, model, tally = self.subject.images, self.model, Tally()
        on = core_of(model) if registry.name_of(detector) == EXTRA else self.module
        x = images.fitted.take(torch.arange(len(images.fitted.images)), model.dtype).to(model.device)
        fitted = detector.fit(counted(on, tally), x, images.fitted.labels.to(model.device))
        held = np.asarray(images.held.ids)
        clean, _ = tensors(images.held, held, dtype=model.dtype, device=model.device)
        own = torch.from_numpy(np.ascontiguousarray(held)).to(model.device)
        guard = Guard.calibrated(fitted, clean, false_alarms=self.info.false_alarms, ids=own)
        before, some = tally.cost[0], clean[:8]
        with torch.no_grad():
            one, other = fitted.at(0)(some, own[:8]).score, fitted.at(1)(some, own[:8]).score
        cost = max(1.0, (tally.cost[0] - before) / (2 * len(some)))
        return Ready(guard, tally, cost, 1 if torch.equal(one, other) else self.info.evaluations)

    def _scored(self, label: str, first: int) -> Scored:
        """One detector on one chunk."""
        began, ready = time.monotonic(), self.ready[label]
        x, y, ids = self._images(first)
        there = self._oblivious(first)
        before = list(ready.tally.cost)
        attack = APGD(steps=self.info.steps, loss="margin")
        found = [
            evade(
                attack,
                ready.guard,
                x[place],
                y[place],
                threat=self.threat,
                starts=[there[place]],
                seed=self.info.seed,
                ids=ids[place],
                rounds=self.info.restarts,
                every=EVERY,
            ).x
            for place in torch.arange(len(x), device=x.device).split(self._at_once(ready))
        ]
        key = keys.fold(keys.fold(keys.root(self.info.seed, device=x.device), ids), keys.number(NOISE))
        shown = {CLEAN: x, NOISE: self.threat.sample(x, key), OBLIVIOUS: there, ADAPTIVE: torch.cat(found)}
        seen = {name: self._judged(label, points, ids) for name, points in shown.items()}
        calibrated = ready.guard.threshold
        forwards, gradients = (now - then for now, then in zip(ready.tally.cost, before))
        return Scored(
            detector=label,
            first=first,
            ids=tuple(ids.tolist()),
            label=tuple(y.tolist()),
            threshold=calibrated.value,
            calibrated=rate(calibrated.rate),
            seen=seen,
            forwards=forwards,
            gradients=gradients,
            seconds=time.monotonic() - began,
        )

    def _judged(self, label: str, x: Tensor, ids: Tensor) -> Judgement:
        ready = self.ready[label]
        found = ready.guard.evaluate(x, ids=ids, num=ready.evaluations)
        if not bool(torch.isfinite(found.score).all()):
            raise BadModel(
                f"the score of {label} is not finite near the samples {ids.tolist()[:3]}",
                hint="look for divisions by zero or half-precision overflow in the model",
            )
        return Judgement(
            predicted=tuple(map(tuple, found.predicted.tolist())), score=tuple(map(tuple, found.score.tolist()))
        )

    def _oblivious(self, first: int) -> Tensor:
        """The points of the attack on the classifier alone: of all searches, the one it is surest at."""
        file = points_file(self.folder, first)
        if not file.exists():
            x, y, ids = self._images(first)
            meter, key = Meter(self.core), keys.fold(keys.root(self.info.seed, device=x.device), ids)
            points = [
                climbed(
                    APGD(steps=self.info.steps, loss=loss),
                    meter,
                    Rows(x, y, torch.full_like(y, -1), keys.fold(key, keys.number(f"{loss} {restart}")), self.threat),
                )
                for restart in range(self.info.restarts)
                for loss in LOSSES
            ]
            best = most_certain(meter, points, Rows(x, y, torch.full_like(y, -1), key, self.threat))
            spent = torch.tensor([meter.forwards, meter.backwards])
            write_points(file, {"x": best, "evaluations": spent})
        return read_points(file)["x"].to(self.model.device)

    def _images(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and ids of a chunk."""
        ids = self.ids[first : first + self.info.chunk]
        x, y = tensors(self.subject.images.tested, ids, dtype=self.model.dtype, device=self.model.device)
        return x, y, torch.from_numpy(np.ascontiguousarray(ids)).to(x.device)

    def _spent(self, label: str, first: int) -> tuple[float, float]:
        """Gradients and forwards of the model that a line takes, with the oblivious points where they are still missing."""
        info, ready = self.info, self.ready[label]
        climbs = len(WAYS) * info.restarts * info.steps
        others = climbs / EVERY + 6 * len(WAYS) + 4 * ready.evaluations
        missing = label == next(iter(self.ready)) and not points_file(self.folder, first).exists()
        alone = missing * len(LOSSES) * info.restarts * info.steps
        n = min(info.chunk, len(self.ids) - first)
        return n * (climbs * ready.cost + alone), n * ((climbs + others) * ready.cost + alone)

    def _second(self, label: str) -> float:
        """What a forward of the model costs inside this detector's search, in seconds: a third of a gradient."""
        ready = self.ready[label]
        x, y, ids = (each[: self._at_once(ready)] for each in self._images(0))
        key = keys.fold(keys.root(self.info.seed, device=x.device), ids)
        attack, model = APGD(steps=4, loss="margin"), Unnoticed(ready.guard, y)
        state = attack.begin(model, Rows(x, y, torch.full_like(y, -1), key, self.threat))
        began = time.monotonic()
        for _ in range(2):
            state = attack.step(model, state)
        return (time.monotonic() - began) / (2 * 3 * ready.cost * len(x))

    def _at_once(self, ready: Ready) -> int:
        """How many images a search takes at a time."""
        return max(1, int(graphs_at_once(self.model.device) / ready.cost))


def points_file(folder: Path, first: int) -> Path:
    """Where the oblivious points of a chunk lie."""
    return folder / FOLDER / POINTS / f"{first}.safetensors"
