"""The interface of every attack, and how one is run on a batch of images."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.acceleration import Acceleration, accelerated
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows, State
from holdfast.ascent.verdict import Verdict
from holdfast.foundation.errors import BadData, BadModel, BadValue
from holdfast.foundation.registry import name_of
from holdfast.losses import Loss, margin
from holdfast.threats.threat import Threat, check_threat

RANKED = 16
"""How many wrong classes a ranking names: more than any published attack targets."""


@dataclass(frozen=True)
class Perturbed:
    """What an attack found, sample by sample.

    Args:
        x: the kept points, (N, C, H, W): misclassified where ``fooled``, else of the largest loss; always inside the set.
            A sample that is misclassified without any change is returned unchanged.
        fooled: whether the model misclassifies ``x``, judged by a fresh forward of the model itself, (N,) bool.
        value: the attack's loss at ``x``, (N,).
        margin: the smallest ``z_y - max_{k != y} z_k`` met inside the set, in logits, (N,).
        distance: from the clean image to ``x``, in the threat's norm, (N,).
        forwards: evaluations of one image that decided each sample, (N,) int64.
        backwards: input gradients likewise, (N,) int64.
    """

    x: Tensor
    fooled: Tensor
    value: Tensor
    margin: Tensor
    distance: Tensor
    forwards: Tensor
    backwards: Tensor

    def __repr__(self) -> str:  # of millions of pixels, which notebooks would print
        fooled, forwards = int(self.fooled.sum()), int(self.forwards.sum())
        return f"Perturbed({fooled} of {len(self.fooled)} fooled, x {tuple(self.x.shape)}, {forwards:,} forwards)"


class Attack(ABC):
    """A search for the worst perturbation, as a pair of pure functions over rows; a frozen dataclass.

    Its fields are its configuration; the threat set is an argument of the call, never a field.

    To add an attack, write one file in ``holdfast/attacks/`` with one ``@register`` class that has ``begin`` and ``step``.
    """

    threats: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    """The registry names of the sets it can search."""
    goal: ClassVar[str] = "budget"
    """``budget``: the largest loss inside the set; ``minimal``: the smallest distance that fools."""
    needs: ClassVar[str] = "gradients"
    """What it asks of the model: ``gradients``, ``scores`` or ``labels``."""

    @property
    @abstractmethod
    def objective(self) -> Loss:
        """The loss that the search increases; the engine values the last point of a search by it."""

    @abstractmethod
    def begin(self, model: Classifier, rows: Rows) -> State:
        """The searches before their first step."""

    @abstractmethod
    def step(self, model: Classifier, state: State) -> State:
        """The searches one step later: at most one forward and one input gradient per row."""

    def searches(self, ranking: Tensor) -> Tensor:
        """The searches of each sample in their order, (N, S) int64: the target class of each, or -1.

        ``ranking``, (N, at most 16) int64, holds the wrong classes by their logits on the clean image, largest first. A
        later search of a sample counts only if no earlier one succeeded.
        """
        return torch.full((len(ranking), 1), -1)

    @abstractmethod
    def steps_on(self, threat: Threat) -> int:
        """How many steps a search takes that does not succeed; it costs so many gradients, and one forward more."""

    @property
    def lasts(self) -> float:
        """The share of these steps after which a search that does not succeed usually ends: an estimate, for times only."""
        return 1.0

    def configuration(self) -> dict[str, Any]:
        """The fields and their values, as plain data."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def check(self, threat: Threat) -> None:
        """Refuses threat sets that the attack cannot search.

        Raises:
            BadValue: it cannot search this one; the hint names those it can.
            UnknownName: the attack's loss does not exist.
        """
        _ = self.objective  # an unknown loss is refused here, before any work
        check_threat(threat)
        if threat.name not in self.threats:
            raise BadValue(
                f"{type(self).__name__} cannot search the threat {threat.name!r}",
                hint=f"it searches: {', '.join(self.threats)}",
            )

    def __call__(
        self,
        model: nn.Module | Classifier,
        x: Tensor,
        y: Tensor,
        *,
        threat: Threat,
        seed: int = 0,
        ids: Tensor | None = None,
        slots: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        surrogate: nn.Module | Classifier | None = None,
        precision: str = "full",
        compile: str = "none",
    ) -> Perturbed:
        """Attacks a batch of images that fits in memory.

        Args:
            model: images in [0, 1] -> logits. A module is searched in eval mode and left as it was found.
            x: clean images, (N, C, H, W) floats in [0, 1], on the model's device.
            y: true labels, (N,) int64.
            threat: the set of allowed perturbations.
            seed: of every random draw. The same seed gives the same result at any batch size, up to rounding.
            ids: what makes the draws of a sample its own, (N,) int64; its place in the batch unless given.
            slots: how many searches run at once; chosen by the images' size unless given.
            progress: called with (samples finished, all samples).
            surrogate: another model of the same classes that the searches evaluate, and differentiate, in the place of
                ``model``: a transfer attack. ``model`` then needs no gradient. It is asked once about the clean image (its
                logits rank the targets), once for each claim, a point that fools the surrogate, once about a search's last
                point, and once about the point that is kept. A claim that it refuses sends the search on. An attack of the
                goal ``minimal`` claims once a search. ``forwards`` counts the evaluations of both.
            precision, compile: how the searches are made faster (`holdfast.ascent.acceleration.Acceleration`). What is
                fooled is judged by ``model`` as it is.

        Raises:
            BadData: images or labels that cannot be attacked.
            BadModel: logits of a wrong shape or not finite, or no gradient; a surrogate with other classes; answers that
                ``precision`` or ``compile`` would change.
            BadValue: a threat set that this attack cannot search; a precision or a way to compile that the device lacks.
        """
        self.check(threat)
        _check_batch(x, y)
        acceleration = Acceleration(precision, compile)
        acceleration.check(x.device)
        y = y.to(torch.int64)
        slots = slots or engine.default_slots(x)
        ids = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device, torch.int64)
        with frozen(model), frozen(surrogate):
            original = Meter(model)
            logits = (
                torch.cat([engine.predict(original, part) for part in x.split(slots)]) if len(x) else x.new_zeros(0, 1)
            )
            if len(x) and (logits.dim() != 2 or int(y.max()) >= logits.shape[1]):
                raise BadModel(
                    f"the model returns {tuple(logits.shape)} for {len(x)} images with labels up to {int(y.max())}",
                    hint="it must return logits (N, K) with K larger than every label",
                )
            if not bool(torch.isfinite(logits).all()):
                bad = int((~torch.isfinite(logits).all(1)).nonzero()[0, 0])
                raise BadModel(
                    f"the model's logits are not finite (NaN or infinite) on image {bad} of x",
                    hint="look for divisions by zero, logarithms of zero or half-precision overflow in the model",
                )
            wrong = logits.argmax(1) != y
            found = _Collected(self.objective(logits, y, torch.full_like(y, -1)), logits, x, y, wrong)
            right = (~wrong).nonzero()[:, 0]
            if len(right):
                feed = engine.Batch(x[right], y[right], keys.fold(keys.root(seed, device=x.device), ids[right]))
                copied = search_copy(model if surrogate is None else surrogate, x[right[:32]]).module
                copies = accelerated(copied, x[right[:32]], acceleration, size=min(slots, len(right)))
                if copies.reasons:
                    raise BadModel("; ".join(copies.reasons), hint="leave precision and compile out")
                searched = copies.classifier(self, None)
                if surrogate is not None:
                    seen = engine.predict(searched, x[right[:1]])
                    if seen.shape != logits[:1].shape or not bool(torch.isfinite(seen).all()):
                        raise BadModel(
                            f"the surrogate returns {tuple(seen.shape)} for one image, the model {tuple(logits[:1].shape)};"
                            f" {int((~torch.isfinite(seen)).sum())} of its logits are not finite",
                            hint="it must return finite logits of the model's classes, in the same order",
                        )
                hunt = engine.Hunt(
                    attack=self,
                    threat=threat,
                    targets=self.searches(ranking(logits[right], y[right])),
                    model=Meter(searched),
                    original=original,
                    slots=slots,
                    stage=keys.number(name_of(self)),
                    keep=True,
                )
                for finished, verdict in enumerate(hunt.verdicts(feed), start=1):
                    found.add(int(right[verdict.position]), verdict)
                    if progress:
                        progress(finished + int(wrong.sum()), len(x))
            if surrogate is not None and len(right):
                # What the searches saw, they saw in the surrogate: the model itself has its say about what is kept.
                kept = torch.cat([engine.predict(original, part) for part in found.x[right].split(slots)])
                none = torch.full_like(y[right], -1)
                found.fooled[right] = kept.argmax(1) != y[right]
                found.value[right] = self.objective(kept, y[right], none)
                found.margin[right] = -torch.maximum(
                    margin(kept, y[right], none), margin(logits[right], y[right], none)
                )
                found.forwards[right] += 1
        return found.result(threat)


def ranking(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes by their logits, largest first, (N, min(16, K - 1)) int64 on the CPU; ties by class number."""
    others = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return others[:, : min(RANKED, logits.shape[1] - 1)].cpu()


class _Collected:
    """Verdicts written into batch-sized tensors as they arrive."""

    def __init__(self, value: Tensor, logits: Tensor, x: Tensor, y: Tensor, wrong: Tensor) -> None:
        self.x0 = x
        self.x = x.clone()
        self.distance = torch.zeros_like(x[:, 0, 0, 0])
        self.fooled = wrong.clone()
        self.value = value.detach().clone()
        self.margin = -margin(logits, y, torch.full_like(y, -1))
        self.forwards = torch.ones_like(y)
        self.backwards = torch.zeros_like(y)

    def add(self, place: int, verdict: Verdict) -> None:
        if verdict.x is not None:
            self.x[place], self.distance[place] = verdict.x, verdict.distance
        self.fooled[place] = verdict.fooled
        self.value[place] = verdict.value
        self.margin[place] = min(verdict.margin, float(self.margin[place]))
        self.forwards[place] += verdict.forwards
        self.backwards[place] += verdict.backwards

    def result(self, threat: Threat) -> Perturbed:
        # How far an image was turned can no longer be measured on it.
        distance = self.distance if threat.parametric else threat.distance(self.x0, self.x)
        return Perturbed(self.x, self.fooled, self.value, self.margin, distance, self.forwards, self.backwards)


def _check_batch(x: Tensor, y: Tensor) -> None:
    for name, given in (("x", x), ("y", y)):
        if not isinstance(given, Tensor):
            raise BadData(f"{name} is a {type(given).__name__}; a tensor is needed", hint=f"torch.as_tensor({name})")
    if x.dim() != 4 or not x.is_floating_point():
        raise BadData(
            f"x is {tuple(x.shape)} {x.dtype}; images must be (N, C, H, W) floats in [0, 1]",
            hint="for uint8 images pass x.float() / 255",
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise BadData(
            f"y is {tuple(y.shape)} {y.dtype} for {len(x)} images; labels must be (N,) integers",
            hint="for one-hot labels pass y.argmax(1)",
        )
    if len(x) and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x).flatten(1).all(1)).nonzero()[0, 0])
        raise BadData(f"image {bad} of x holds values that are not finite", hint="remove or repair that image")
    if len(x) and (float(x.min()) < 0 or float(x.max()) > 1):
        raise BadData(
            f"x ranges from {float(x.min()):g} to {float(x.max()):g}; pixels must lie in [0, 1]",
            hint="pass images before normalisation and put the normalisation into the model; divide 0..255 by 255",
        )
    if len(y) and int(y.min()) < 0:
        raise BadData(f"y holds the label {int(y.min())}; labels count from 0", hint="drop or renumber these samples")
