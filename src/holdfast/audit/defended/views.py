"""How an attacker may evaluate a classifier that draws, and what an evaluation costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from holdfast.ascent.meter import Classifier
from holdfast.ascent.randomised import Randomised
from holdfast.defences.defence import Defence
from holdfast.foundation import registry
from holdfast.imaging.pool import Pool
from holdfast.models.model import Model
from holdfast.records.defended import PoolInfo

CORE = "core"
"""The opening that is the undefended model."""


@runtime_checkable
class Drawing(Randomised, Protocol):
    """A `Randomised`, told from a plain classifier by its `at`."""


@dataclass(frozen=True)
class Steady:
    """A classifier that draws nothing, or whose draws are held, as a `Randomised`."""

    classifier: Classifier

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.classifier(x)

    def at(self, *evaluation: int) -> Steady:
        return self


def drawing(classifier: Classifier | Randomised) -> Randomised:
    """The classifier as a `Randomised`, whether it draws or not."""
    return classifier if isinstance(classifier, Drawing) else Steady(classifier)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Averaged:
    """The logarithm of the mean probabilities of ``num`` evaluations: the expectation over draws (EOT)."""

    model: Randomised
    num: int
    evaluation: tuple[int, ...] = ()

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        parts = [self.model.at(*self.evaluation, number)(x, ids).log_softmax(1) for number in range(self.num)]
        return torch.stack(parts).logsumexp(0) - math.log(self.num)

    def at(self, *evaluation: int) -> Averaged:
        return Averaged(self.model, self.num, evaluation)


class Redrawn:
    """Other draws at every call, one after the other: what a search without an expectation sees."""

    def __init__(self, model: Randomised, evaluation: tuple[int, ...] = ()) -> None:
        self.model, self.evaluation, self.calls = model, evaluation, 0

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.model.at(*self.evaluation, self.calls)(x, ids)

    def at(self, *evaluation: int) -> Redrawn:
        return Redrawn(self.model, evaluation)


def settings(defence: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of every setting of a defence, those of a part as "part.setting"."""
    for one in dataclasses.fields(defence):
        value, label = getattr(defence, one.name), f"{name}{one.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, Pool)):
            yield from settings(value, f"{label}.")
        else:
            yield label, value


def plain(value: Any) -> Any:
    """A setting as a document can hold it; a function by its name, because its repr is another in every process."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, FunctionType) else repr(value)


def num_draws(defence: Defence) -> int:
    """Over how many draws an answer averages, by the settings of that name; 0 where there is none."""
    found = [value for label, value in settings(defence) if label.rpartition(".")[2] == "num_draws"]
    return max(found, default=0)


def sampled(defence: Any, num: int) -> Any:
    """The same defence with averages over ``num`` draws: what an attacker's gradient needs is its own choice."""
    changes: dict[str, Any] = {}
    for one in dataclasses.fields(defence):
        value = getattr(defence, one.name)
        if one.name == "num_draws":
            changes[one.name] = num
        elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Pool)):
            changes[one.name] = sampled(value, num)
    return dataclasses.replace(defence, **changes)


def pools(defence: Defence) -> list[Pool]:
    """The clean images that a defence keeps."""
    return [value for _, value in settings(defence) if isinstance(value, Pool)]


def pool_info(pool: Pool) -> PoolInfo:
    """What a run writes about a pool."""
    return PoolInfo(source=pool.source, images=len(pool.images), classes=len(pool.counts), fingerprint=pool.fingerprint)


def core_of(model: Model) -> nn.Module:
    """The classifier of a model for a defence, which takes any callable in the place of a module."""
    return cast(nn.Module, model.module)


def name_of(defence: Defence) -> str:
    """What reports call it: its name in the registry."""
    return registry.name_of(defence)


@dataclass(frozen=True)
class Entrance:
    """An opening as a search sees it with some number of draws: its ``model``, and what one evaluation ``costs``."""

    name: str
    model: Randomised
    costs: Cost


def entrances(defence: Defence, module: nn.Module, draws: int, x: Tensor, *, randomised: bool) -> list[Entrance]:
    """The openings that let a gradient through, each averaging over ``draws``.

    A defence that averages by itself does so over that many draws, another that draws is evaluated so often.

    Args:
        x: a few images on which the cost is counted.
    """
    inside = randomised and num_draws(defence) > 0
    thin = sampled(defence, draws) if inside else defence

    def seen(on: Any) -> dict[str, Randomised]:
        found = {
            each.name: drawing(each.classifier) for each in thin.openings(on) if each.name != CORE and not each.flat
        }
        repeats = randomised and not inside
        return {name: Averaged(model, draws) if repeats else model for name, model in found.items()}

    tally = Tally()
    counted = seen(Counted(module, tally))
    return [Entrance(name, model, tally.of(counted[name], x)) for name, model in seen(module).items()]


@dataclass(frozen=True)
class Cost:
    """Evaluations of the model that an answer to one image takes, and how many of them a gradient passes through."""

    forwards: float
    gradients: float


@dataclass
class Tally:
    """Counts the evaluations of a model and of all its copies."""

    cost: list[int] = field(default_factory=lambda: [0, 0])

    def __deepcopy__(self, memo: object) -> Tally:
        return self

    def of(self, classifier: Classifier | Randomised, x: Tensor) -> Cost:
        """What an answer to each of these images took, on average."""
        before = list(self.cost)
        with torch.enable_grad():
            classifier(x.detach().requires_grad_())
        return Cost(*((now - then) / len(x) for now, then in zip(self.cost, before)))


class Counted(nn.Module):
    """A model that counts its evaluations in a tally, which its copies share."""

    def __init__(self, core: Classifier, tally: Tally) -> None:
        super().__init__()
        self.core = core
        self.tally = tally
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        num = len(x)  # raises where the module is traced: a trace would count once
        self.tally.cost[0] += num
        self.tally.cost[1] += num * (x.requires_grad and torch.is_grad_enabled())
        return self.core(x)


def cost(defence: Defence, module: nn.Module, x: Tensor) -> float:
    """Forwards of the model for the defence's answer to one image, on average over these, (n, C, H, W)."""
    tally = Tally()
    wrapped = defence.wrap(Counted(module, tally))
    before = tally.cost[0]
    with torch.no_grad():
        wrapped(x)
    return (tally.cost[0] - before) / len(x)
