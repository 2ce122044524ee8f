"""The interface of every experiment, and the settings that all of them share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from holdfast.audit.api import Audit
from holdfast.data.source import Source
from holdfast.experiments.lab import Lab, Trained, Training
from holdfast.experiments.outcome import Outcome
from holdfast.foundation import units
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.objectives.objective import Objective
from holdfast.threats.threat import Threat
from holdfast.training.recipe import Recipe

Radius = Annotated[float, BeforeValidator(units.parse)]
"""A radius, which may be written as text: ``"8/255"``."""

_KNOWN = tuple(each.name for each in fields(Recipe) if each.name not in ("objective", "threat"))


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """An experiment: a frozen dataclass whose fields are its configuration, sized for one core of a CPU by default.

    Args:
        net: the registry name of the net; ``options``: its keyword arguments.
        images: how many images each net is trained on; all, if there are fewer.
        steps: updates of each net, in whole epochs.
        batch_size: images per step.
        lr: the largest learning rate.
        settings: any other field of `holdfast.training.recipe.Recipe`, for every training.
        test_images: how many test images the verdicts come from; all, if there are fewer.
        plan: the plan of `holdfast.audit` by which robust accuracy is judged.
        seed: of every draw.
    """

    published: ClassVar[tuple[str, ...]]
    """What the literature says, with its source: lines to be shown beside the table."""

    net: str = "small_cnn"
    options: dict[str, Any] = field(default_factory=dict)
    images: int = 5000
    steps: int = 1000
    batch_size: int = 50
    lr: float = 1e-3
    settings: dict[str, Any] = field(default_factory=dict)
    test_images: int = 500
    plan: str = "fast"
    seed: int = 0

    @abstractmethod
    def run(self, lab: Lab) -> Outcome:
        """Trains, judges, and says what came out. What is finished in the lab's folder is not done again."""

    def audited(self, lab: Lab, trained: Trained, which: str, threat: Threat) -> Audit:
        """The verdict on the ``best`` or the ``last`` weights of a training."""
        return lab.audited(trained, which, threat, self.plan, self.test_images, self.seed)

    def training(
        self, name: str, objective: Objective, threat: Threat, source: Source, *, steps: int | None = None, **more: Any
    ) -> Training:
        """A training of this experiment; ``more`` are fields of `Recipe`, and ``settings`` win over them.

        Raises:
            UnknownName: ``settings`` has a key that is no field of a recipe.
        """
        asked: dict[str, Any] = {
            "batch_size": self.batch_size,
            "lr": self.lr,
            "seed": self.seed,
            **more,
            **self.settings,
        }
        for key in self.settings:
            if key not in _KNOWN:
                raise UnknownName.among("field of a recipe in settings", key, _KNOWN)
        trial = Training(name, self.net, self.options, _recipe(objective, threat, {"epochs": 1, **asked}), source)
        epochs = max(1, round((self.steps if steps is None else steps) / trial.per_epoch))
        return dataclasses.replace(trial, recipe=_recipe(objective, threat, {"epochs": epochs, **asked}))


def _recipe(objective: Objective, threat: Threat, values: dict[str, Any]) -> Recipe:
    try:
        return Recipe(objective, threat, **values)
    except TypeError as error:
        raise BadValue(f"the recipe cannot be made: {error}", hint="give numbers where numbers are meant") from None
