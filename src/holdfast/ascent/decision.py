"""Searches that see only which label a query gets: finding a misclassified image, and walking it to the boundary."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.attack import Attack
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe_nearest, take
from holdfast.losses import Loss
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

S = TypeVar("S", bound=State)
W = TypeVar("W", bound="Walk")

LONGEST = 24  # queries of one bisection: its end is then near the resolution of a float32 pixel


@dataclass(frozen=True)
class Walk(State):
    """Where R searches stand, each in a phase of its own; one query is one step.

    Args:
        phase: which of `LabelOnly.phases` the last query belongs to, (R,) int64.
        made: the queries of that phase so far, (R,) int64.
        tried: the random images so far, (R,) int64.
        fools: whether the last query, ``x``, was misclassified, (R,) bool.
        found: the misclassified point that the search works with, (R, C, H, W).
        low, high: shares of the way from the clean image to ``found``, (R,): the boundary lies between them.
    """

    phase: Tensor
    made: Tensor
    tried: Tensor
    fools: Tensor
    found: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def start(cls: type[W], rows: Rows, **more: Any) -> W:
        """The searches before their first query; ``more`` fills a subclass's fields."""
        none, share = torch.zeros_like(rows.y), torch.zeros_like(rows.x0[:, 0, 0, 0])
        return cls.at(
            rows,
            noise(rows, none),
            phase=none,
            made=none,
            tried=none,
            fools=none > 0,
            found=rows.x0,
            low=share,
            high=share,
            **more,
        )

    @property
    def distance(self) -> Tensor:
        """How far ``found`` lies from the clean image, (R,)."""
        return self.rows.threat.distance(self.rows.x0, self.found)


def apart(state: S, group: Tensor, ways: Sequence[Callable[[S], S]]) -> S:
    """The rows of group i, (R,) int64, after ``ways[i]``; the order of the rows stays, and what they started from."""
    present = set(group.tolist())
    if len(present) == 1:
        return ways[present.pop()](state)
    parts = []
    for number in sorted(present):
        index = (group == number).nonzero()[:, 0]
        before = take(state, index)
        parts.append((index, before, ways[number](before)))
    # Only what a way has changed is written back: most of it stays, and the images are large.
    changed: dict[str, Tensor] = {}
    for index, before, after in parts:
        for name, value in vars(after).items():
            if name != "rows" and value is not getattr(before, name):
                if name not in changed:
                    changed[name] = getattr(state, name).clone()
                changed[name][index] = value
    return dataclasses.replace(state, **changed)  # type: ignore[type-var]


def enter(state: W, phase: int, **changes: Tensor) -> W:
    """The searches at the beginning of another phase."""
    state = dataclasses.replace(state, **changes)  # type: ignore[type-var]
    return dataclasses.replace(state, phase=torch.full_like(state.phase, phase), made=torch.zeros_like(state.made))


def between(state: Walk, share: Tensor) -> Tensor:
    """The point that lies a share (R,) of the way to ``found``: on a line, in Linf on the side of a growing cube."""
    x0 = state.rows.x0
    if state.rows.threat.name == "linf":
        reach = per_row(share * state.distance, x0)
        return torch.maximum(torch.minimum(state.found, x0 + reach), x0 - reach)
    return x0 + per_row(share, x0) * (state.found - x0)


def noise(rows: Rows, tried: Tensor) -> Tensor:
    """One random image per row, (R, C, H, W): squares of uniform colours; ``tried``, (R,) int64, numbers the images.

    The squares measure one pixel at first, then 2, 4 and so on, and then one again: many models put all fine noise into
    one and the same class, and the images of that class would find no start.
    """
    _, c, h, w = rows.x0.shape
    colours = keys.uniform(keys.fold(keys.fold(rows.key, -1), tried), (c, h, w), dtype=rows.x0.dtype)
    side = (1 << (tried % max(h, w).bit_length()))[:, None]
    down, along = (torch.arange(size, device=tried.device) // side * side for size in (h, w))
    row = torch.arange(len(tried), device=tried.device).view(-1, 1, 1, 1)
    channel = torch.arange(c, device=tried.device).view(1, -1, 1, 1)
    return colours[row, channel, down[:, None, :, None], along[:, None, None, :]]


class LabelOnly(Attack):
    """An attack that reads nothing but the predicted label, and looks for the nearest point with a wrong one.

    Every search tries `starts` random images, each drawn as near to the clean one as the nearest misclassified point so
    far, so that one that is misclassified is nearer; that one is bisected to the boundary. What follows is `landed` and
    further `phases`. All that was asked counts if it lies within eps; the search itself knows no eps.

    An attack of this kind has the fields `steps` and `starts`. It records the margin, and does not use it.
    """

    threats = ("linf", "l2")
    goal = "minimal"
    needs = "labels"

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many queries a search makes."""

    @property
    @abstractmethod
    def starts(self) -> int:
        """How many random images it tries; one that finds none misclassified has failed."""

    @abstractmethod
    def landed(self, state: Any) -> Any:
        """The searches whose ``found`` lies on the boundary, with the first query of what comes next."""

    @property
    def phases(self) -> tuple[Callable[[Any], Any], ...]:
        """What each phase does once the query ``x`` was answered by ``fools``: it returns the state with the next."""
        return (self._started, self._bisected)

    @property
    def objective(self) -> Loss:
        return losses.margin

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def step(self, model: Classifier, state: State) -> State:
        assert isinstance(state, Walk)
        logits = model(state.x)
        state = observe_nearest(state, logits, self.objective(logits, state.rows.y, state.rows.target))
        count = state.count + 1
        fools = logits.argmax(1) != state.rows.y
        state = dataclasses.replace(state, fools=fools, made=state.made + 1, count=count, done=count >= self.steps)
        return apart(state, state.phase, self.phases)

    def bisect(self, state: W) -> W:
        """The searches after ``x`` was misclassified: they work there now, and look for the boundary on the way."""
        low = torch.zeros_like(state.low)
        return _halved(enter(state, 1, found=state.x, low=low, high=low + 1))

    def _started(self, state: Walk) -> Walk:
        state = dataclasses.replace(state, tried=state.tried + 1)
        last = state.tried >= self.starts
        group = torch.where(state.fools, 0, torch.where(~last, 1, torch.where(state.high > 0, 2, 3)))
        return apart(state, group, (self.bisect, _another, self.landed, _failed))

    def _bisected(self, state: Walk) -> Walk:
        middle = (state.low + state.high) / 2
        low, high = torch.where(state.fools, state.low, middle), torch.where(state.fools, middle, state.high)
        state = dataclasses.replace(state, low=low, high=high)
        # Closer than the scale on which the normal is estimated, which is a tenth of the way (`holdfast.ascent.normal`).
        close = 0.002 if state.rows.threat.name == "linf" else 0.05 / state.x[0].numel() ** 0.5
        over = (high - low <= close) | (state.made >= LONGEST)
        return apart(state, over.long(), (_halved, self._arrived))

    def _arrived(self, state: Walk) -> Walk:
        state = dataclasses.replace(state, found=between(state, state.high))
        return apart(state, (state.tried >= self.starts).long(), (_another, self.landed))


def _halved(state: W) -> W:
    return dataclasses.replace(state, x=between(state, (state.low + state.high) / 2))


def _another(state: Walk) -> Walk:
    image = dataclasses.replace(state, found=noise(state.rows, state.tried))
    limit = torch.where(state.high > 0, state.distance, torch.inf)
    return enter(state, 0, x=between(image, (limit / image.distance).clamp_max(1)))


def _failed(state: W) -> W:
    return dataclasses.replace(state, done=torch.ones_like(state.done))
