"""Adversarial patch: signed gradient steps inside one window of the image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent import steps
from holdfast.ascent.attack import Attack
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State, observe
from holdfast.attacks.options import at_least_one, step_size
from holdfast.foundation.registry import register
from holdfast.losses import Loss
from holdfast.threats.patch import Patch
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class Painting(State):
    """Where R searches stand; ``window``, (R, 1, H, W) bool: the pixels that each one paints."""

    window: Tensor


@register
@dataclass(frozen=True)
class AdversarialPatch(Attack):
    """One window of each image is painted: signed gradient steps on its colours, at a place that is chosen first.

    Source: Brown et al., "Adversarial patch" (2017), equation 1, and Karmon, Zoran and Goldberg, "LaVAN: localized and
    visible adversarial noise" (ICML 2018), section 3: a patch of its own for every image, at a fixed place, with no
    transformations. Departures: steps are signed, so that no scale of the loss matters; the paint begins with random
    colours; of several random places a search takes the one with the largest gradient (the papers' places are random).

    Args:
        steps: how many gradients of each search; the first, at the clean image, chooses the window.
        restarts: how many searches of each sample, each in a window of its own.
        candidates: of how many random windows a search takes the one whose gradients' absolute values add up to most;
            1 takes a random window.
        step_size: the length of a step, in colours; 0.5 unless given.
        schedule: how the length of the steps falls (see `holdfast.ascent.steps`).
        loss: what rises (see `holdfast.losses`).
    """

    threats = ("patch",)

    steps: int = 20
    restarts: int = 25
    candidates: int = 10
    step_size: float | str | None = None
    schedule: str = "cosine"
    loss: str = "scaled_ce"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "candidates"):
            at_least_one(name, getattr(self, name))
        step_size(self.step_size, 0)
        steps.named(self.schedule)

    @property
    def objective(self) -> Loss:
        return losses.named(self.loss)

    def searches(self, ranking: Tensor) -> Tensor:
        return torch.full((len(ranking), self.restarts), -1)

    def steps_on(self, threat: Threat) -> int:
        return self.steps

    def begin(self, model: Classifier, rows: Rows) -> Painting:
        return Painting.at(rows, rows.x0, window=torch.zeros_like(rows.x0[:, :1], dtype=torch.bool))

    def step(self, model: Classifier, state: State) -> Painting:
        assert isinstance(state, Painting)
        rows = state.rows
        logits, value, grad = evaluate(model, self.objective, state)
        state = observe(state, logits, value)
        first = per_row(state.count == 0, state.x)
        window = torch.where(first, self._window(rows, grad), state.window) if bool(first.any()) else state.window
        share = torch.as_tensor(steps.named(self.schedule)(state.count, self.steps), device=grad.device)
        length = per_row((step_size(self.step_size, 0.5) * share).to(grad.dtype).expand(len(state)), grad)
        painted = (state.x + length * grad.sign()).clamp(0, 1)
        paint = torch.where(first, keys.uniform(keys.fold(rows.key, 0), grad.shape[1:], dtype=grad.dtype), painted)
        count = state.count + 1
        return dataclasses.replace(
            state, x=torch.where(window, paint, rows.x0), window=window, count=count, done=count >= self.steps
        )

    def _window(self, rows: Rows, grad: Tensor) -> Tensor:
        """Of the random windows of each row, the one with the largest gradients, (R, 1, H, W) bool."""
        assert isinstance(rows.threat, Patch)
        size = grad.abs().sum(1, keepdim=True)
        best = rows.threat.anywhere(keys.fold(rows.key, 1), grad)
        most = (size * best).flatten(1).sum(1)
        for candidate in range(1, self.candidates):
            window = rows.threat.anywhere(keys.fold(rows.key, 1 + candidate), grad)
            sum_ = (size * window).flatten(1).sum(1)
            best, most = torch.where(per_row(sum_ > most, grad), window, best), torch.maximum(most, sum_)
        return best
