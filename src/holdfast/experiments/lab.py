"""Where an experiment works: trainings and audits in a folder, none of which is done twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.audit.api import Audit, audit
from holdfast.audit.feed import tensors
from holdfast.data.source import Source, Subset, subset
from holdfast.foundation import units
from holdfast.foundation.registry import pick
from holdfast.foundation.stats import Interval, wilson
from holdfast.models.load import build
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.records.schema import Rate
from holdfast.threats.threat import Threat
from holdfast.training import run
from holdfast.training.checkpoint import restored
from holdfast.training.loop import Trainer
from holdfast.training.plan import passes
from holdfast.training.recipe import Recipe

Progress = Callable[[str, int, int], None]
"""Called with the training that is going on, and how many percent of all of them are done, of 100."""


@dataclass(frozen=True)
class Training:
    """One training of an experiment: the ``name`` of its folder, the net with its arguments, how, and on which images."""

    name: str
    net: str
    options: dict[str, Any]
    recipe: Recipe
    source: Source

    @property
    def learned(self) -> Source:
        """The images that it learns from: all but those that it holds out."""
        held, ids = subset(self.source, self.held_out, self.recipe.seed), np.asarray(self.source.ids)
        return Subset(self.source, ids[~np.isin(ids, held.ids)])

    @property
    def held_out(self) -> int:
        """How many images it holds out."""
        return min(run.HELD_OUT, len(self.source) // 10)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        n = len(self.source) - self.held_out
        return -(-n // self.recipe.batch_size) * self.recipe.replays

    @property
    def steps(self) -> int:
        """All steps."""
        return self.recipe.epochs * self.per_epoch

    def passes(self, device: str) -> float:
        """What a step costs an image, in forwards (`holdfast.training.plan`), counted on one batch."""
        few = replace(self, source=subset(self.source, max(20, self.recipe.batch_size), 0))
        return passes(few.begun(device))

    def begun(self, device: str) -> Trainer:
        """It before its first step."""
        classes = len(self.source.class_names) + self.recipe.objective.outputs
        given = {"classes": classes, **self.options}
        net = build(self.net, shape=self.source.shape, classes=classes, options=given, seed=self.recipe.seed)
        return Trainer(net.to(device), self.learned, self.recipe)


@dataclass(frozen=True)
class Trained:
    """A finished training: what was ``asked``, its ``folder``, and what was written down on the way."""

    asked: Training
    folder: Path
    log: run.Training

    def weights(self, which: str) -> Path:
        """The file with the ``best`` weights, the most robust on held-out images, or with the ``last``."""
        return self.folder / pick("weights", which, {"best": run.ROBUST, "last": run.FINAL})


@dataclass(frozen=True)
class Lab:
    """What an experiment works with.

    Args:
        train: the images to train on, some of which every training holds out.
        test: the images that verdicts come from.
        out: the folder; what is finished in it is not done again.
        device: where to compute.
        command: what trainings write down as the command that began them.
        progress: told how far the trainings are.
    """

    train: Source
    test: Source
    out: Path
    device: str = "cpu"
    command: str = ""
    progress: Progress = field(default=lambda name, done, total: None)

    def drawn(self, images: int, seed: int) -> Source:
        """Training data of which ``images`` are left to learn from when some are held out; all, if there are fewer."""
        return subset(self.train, images + min(run.HELD_OUT, images // 9), seed)

    def judges(self, images: int, seed: int) -> Source:
        """``images`` of the test data; all, if there are fewer."""
        return subset(self.test, images, seed)

    def trained(self, trainings: Sequence[Training]) -> dict[str, Trained]:
        """Does the trainings in order, or goes on with them, or finds them done; by name."""
        costs = [_cost(each, self.device) for each in trainings]
        found: dict[str, Trained] = {}
        for place, each in enumerate(trainings):
            before, label = sum(costs[:place]), f"{each.name}, {place + 1} of {len(trainings)}"

            def told(
                done: int, total: int, label: str = label, before: float = before, cost: float = costs[place]
            ) -> None:
                self.progress(label, int(100 * (before + cost * done / total) / sum(costs)), 100)

            folder = self.out / each.name
            log = run.train(
                each.net,
                each.source,
                each.recipe,
                folder,
                options=each.options,
                device=self.device,
                command=self.command,
                watch=run.Watch(step=told),
            )
            found[each.name] = Trained(each, folder, log)
        return found

    def model(self, trained: Trained, which: str) -> Model:
        """The net of a training with its ``best`` or its ``last`` weights."""
        net = restored(trained.weights(which))
        return load_model(net.to(self.device), shape=trained.asked.source.shape, device=self.device)

    def audited(self, trained: Trained, which: str, threat: Threat, plan: str, images: int, seed: int) -> Audit:
        """The verdict of a plan on ``images`` of the test data, written below the training's folder."""
        return audit(
            self.model(trained, which),
            self.judges(images, seed),
            threat=threat,
            plan=plan,
            seed=seed,
            out=trained.folder / f"audit-{which}-{threat.name}-{written(threat.eps)}-{plan}",
        )

    def accuracy(self, trained: Trained, which: str, source: Source) -> float:
        """The share of the images of a source that these weights classify correctly."""
        model, right = self.model(trained, which), 0
        with frozen(model.module):
            for ids in np.array_split(np.asarray(source.ids), -(-len(source) // 500)):
                x, y = tensors(source, ids, dtype=model.dtype, device=model.device)
                right += int((engine.predict(model, x).argmax(1) == y).sum())
        return right / len(source)

    def tensors(self, source: Source, model: Model) -> tuple[Tensor, Tensor]:
        """All images and labels of a source, for a model."""
        return tensors(source, np.asarray(source.ids), dtype=model.dtype, device=model.device)


def written(eps: float) -> str:
    """A radius as a part of a file's name."""
    return units.show(eps).replace("/", "_")


def rate(found: Rate) -> Interval:
    """A rate of an audit as a cell."""
    return Interval(found.value, found.n, found.low, found.high)


def share(right: Tensor) -> Interval:
    """The share of (N,) booleans that are true, with Wilson's interval."""
    return wilson(int(right.sum()), len(right))


def _cost(training: Training, device: str) -> float:
    """All passes of one image through the net, with those of the check after each epoch (PGD-10, FGSM and a forward)."""
    steps = training.steps * training.recipe.batch_size * training.passes(device)
    return steps + training.recipe.epochs * training.held_out * 24
