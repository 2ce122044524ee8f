"""A search as data: rows, their state, and the index operations over both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from holdfast.losses import best_other, true_logit
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row

T = TypeVar("T")
S = TypeVar("S", bound="State")


@dataclass(frozen=True)
class Rows:
    """What R searches start from. A row is one search: (sample, target, restart).

    Args:
        x0: the clean images, (R, C, H, W) floats in [0, 1].
        y: the true labels, (R,) int64.
        target: the class that each search wants, (R,) int64; -1 where any wrong class will do.
        key: the source of each row's randomness, (R,) int64 (see `holdfast.keys`).
        threat: the set of allowed perturbations, the same for all rows.
    """

    x0: Tensor
    y: Tensor
    target: Tensor
    key: Tensor
    threat: Threat

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class State:
    """Where R searches stand. The first axis of every tensor is the row; no row depends on another.

    Args:
        rows: what the searches started from.
        x: the point to evaluate next, (R, C, H, W); parameters (R, P, 1, 1) where the threat set has those.
        best: the point to keep, likewise: the one that fooled, else the one of the largest loss.
        value: the loss at ``best``, (R,); -inf before the first evaluation.
        margin: the smallest ``z_y - max_{k != y} z_k`` evaluated inside the set so far, (R,); inf before the first.
        fooled: whether ``best`` was seen to be misclassified, (R,) bool.
        done: whether the search has ended; ``x`` may still be unevaluated, the engine evaluates it once more.
        count: the steps taken, (R,) int64.
    """

    rows: Rows
    x: Tensor
    best: Tensor
    value: Tensor
    margin: Tensor
    fooled: Tensor
    done: Tensor
    count: Tensor

    @classmethod
    def at(cls: type[S], rows: Rows, x: Tensor, **more: Any) -> S:
        """The state of searches that begin at ``x`` and have evaluated nothing; ``more`` fills a subclass's fields."""
        full = torch.full_like(rows.y, 0, dtype=x.dtype)
        no = torch.zeros_like(rows.y, dtype=torch.bool)
        return cls(
            rows=rows,
            x=x,
            best=rows.threat.origin(rows.x0),
            value=full - torch.inf,
            margin=full + torch.inf,
            fooled=no,
            done=no,
            count=torch.zeros_like(rows.y),
            **more,
        )

    def __len__(self) -> int:
        return len(self.count)


def observe(state: S, logits: Tensor, value: Tensor, *, allowed: Tensor | None = None) -> S:
    """The state after ``state.x`` was evaluated: ``logits`` (R, K), ``value`` (R,).

    A point that fools replaces any point that does not; among equals the larger loss is kept. ``allowed``, (R,) bool, says
    which points lie in the threat set; the others change nothing (a search may pass outside the set on its way).
    """
    y = state.rows.y
    allowed = torch.ones_like(state.done) if allowed is None else allowed
    fools = (logits.argmax(1) != y) & allowed
    better = allowed & torch.where(fools == state.fooled, value > state.value, fools)
    margin = true_logit(logits, y) - best_other(logits, y)
    return dataclasses.replace(
        state,
        best=torch.where(per_row(better, state.x), state.x, state.best),
        value=torch.where(better, value, state.value),
        margin=torch.where(allowed, torch.minimum(state.margin, margin), state.margin),
        fooled=state.fooled | fools,
    )


def observe_nearest(state: S, logits: Tensor, value: Tensor) -> S:
    """The same for a minimal attack: of the points within eps that fool, the nearest is kept.

    Until one fools, the point of the largest loss is kept. Points further away than eps change nothing.
    """
    rows = state.rows
    distance = rows.threat.distance(rows.x0, state.x)
    allowed = distance <= rows.threat.eps * (1 + 1e-6)
    closer = distance < rows.threat.distance(rows.x0, state.best)
    fools = logits.argmax(1) != rows.y
    counts = allowed & torch.where(state.fooled, closer & fools, True)
    nearest = observe(dataclasses.replace(state, fooled=state.fooled & ~counts), logits, value, allowed=counts)
    margin = torch.where(allowed, true_logit(logits, rows.y) - best_other(logits, rows.y), torch.inf)
    return dataclasses.replace(
        nearest, fooled=state.fooled | nearest.fooled, margin=torch.minimum(state.margin, margin)
    )


def take(tree: T, index: Tensor) -> T:
    """The rows ``index`` of every tensor in a dataclass of tensors and such dataclasses; the rest is kept as it is."""
    return _map(tree, lambda tensors: tensors[0][index], [])


def join(first: T, *others: T) -> T:
    """The rows of several such dataclasses, one after the other."""
    return _map(first, lambda tensors: torch.cat(tensors), others) if others else first


def _map(tree: Any, change: Any, others: Sequence[Any]) -> Any:
    if isinstance(tree, Tensor):
        return change([tree, *others])
    if isinstance(tree, (Rows, State)):
        fields = {f.name: [getattr(t, f.name) for t in (tree, *others)] for f in dataclasses.fields(tree)}
        return type(tree)(**{name: _map(parts[0], change, parts[1:]) for name, parts in fields.items()})
    return tree
