"""Steps onto a linearised decision boundary, and looking at one class after another for the nearest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from holdfast import losses
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows, State
from holdfast.threats.threat import Threat, room
from holdfast.threats.threat import rows as per_row

L = TypeVar("L", bound="Look")


def onto(threat: Threat, x: Tensor, grad: Tensor, offset: Tensor) -> Tensor:
    """The shortest change d, in the threat's norm, with ``grad . d = offset`` (R,) and x + d in [0, 1]; (R, C, H, W).

    Where no change reaches it, every pixel goes as far as it can. In Linf every pixel moves by t, in L2 by t times its
    gradient, until it meets the box: what they gain together is concave and piecewise linear in t, so that Newton's method
    from a t that is too small rises to the exact one in finitely many rounds (as in `holdfast.threats.l2`). In L1 the
    values of the largest gradients move first. In L0 the pixels that gain most go to their corners of the colour cube, as
    few as reach the boundary; the last one goes beyond it.
    """
    toward = grad * per_row(offset.sign(), grad)
    gain, limit, wanted = grad.flatten(1).abs(), room(x, toward).flatten(1), offset.abs()
    tiny = torch.finfo(x.dtype).tiny
    if threat.name == "l0":
        worth = (gain * limit).view(len(x), x.shape[1], -1).sum(1)
        order = worth.sort(dim=1, descending=True, stable=True).indices
        ranked = worth.gather(1, order)
        needed = (ranked.cumsum(1) - ranked < wanted[:, None]) & (ranked > 0)
        taken = torch.zeros_like(needed).scatter_(1, order, needed)
        moved = limit.view(len(x), x.shape[1], -1) * taken[:, None]
    elif threat.name == "l1":
        order = gain.sort(dim=1, descending=True).indices
        ranked, space = gain.gather(1, order), limit.gather(1, order)
        before = (ranked * space).cumsum(1) - ranked * space
        moved = torch.minimum((wanted[:, None] - before).clamp_min(0) / ranked.clamp_min(tiny), space)
        moved = torch.zeros_like(moved).scatter_(1, order, moved)
    else:
        speed = torch.ones_like(gain) if threat.name == "linf" else gain
        # Finite, so that a gradient of zero times it is zero.
        t = (wanted / (gain * speed).sum(1).clamp_min(tiny)).clamp_max(torch.finfo(x.dtype).max)
        while True:
            full = speed * t[:, None] >= limit
            held = (gain * limit * full).sum(1)
            rate = (gain * speed * ~full).sum(1)
            new = torch.where(rate > tiny, (wanted - held).clamp_min(0) / rate.clamp_min(tiny), t)
            rises = new > t * (1 + 1e-6)
            if not bool(rises.any()):
                break
            t = torch.where(rises, new, t)  # a row that has arrived stays, whatever its neighbours do
        moved = torch.minimum(speed * t[:, None], limit)
    return moved.view_as(x) * toward.sign()


@dataclass(frozen=True)
class Look(State):
    """A search that, at one point ``x``, looks at several classes before it moves: one gradient each.

    Args:
        classes: the wrong classes to look at, (R, k) int64, the largest logit at ``x`` first.
        place: how many were looked at, (R,) int64; 0 where ``x`` was not evaluated yet.
        move: the shortest step onto a boundary so far, (R, C, H, W).
        length: its length, (R,); inf before the first.
    """

    classes: Tensor
    place: Tensor
    move: Tensor
    length: Tensor

    @classmethod
    def fields(cls, rows: Rows, candidates: int) -> dict[str, Tensor]:
        """The first values of these fields, for ``candidates`` classes."""
        return {
            "classes": torch.zeros_like(rows.y)[:, None].repeat(1, candidates),
            "place": torch.zeros_like(rows.y),
            "move": torch.zeros_like(rows.x0),
            "length": torch.full_like(rows.y, 0, dtype=rows.x0.dtype) + torch.inf,
        }


class Seen(NamedTuple):
    """What one look brought: ``logits`` at ``x``, the boundary's ``value`` and ``grad`` there, and whether it was the
    last class to look at."""

    logits: Tensor
    value: Tensor
    grad: Tensor
    complete: Tensor


def look(model: Classifier, state: L, threat: Threat) -> tuple[L, Seen]:
    """Looks at the next class: its linearised boundary, and the shortest step onto that in the threat's norm.

    Pixel values at the edge of the box that the step would push out of it are left out. A class without a gradient is
    infinitely far.
    """
    rows, first = state.rows, state.place == 0
    chosen = state.classes.gather(1, state.place[:, None])[:, 0]
    aimed = dataclasses.replace(state, rows=dataclasses.replace(rows, target=torch.where(first, -1, chosen)))
    logits, value, grad = evaluate(model, losses.margin, aimed)
    wide = min(state.classes.shape[1], logits.shape[1] - 1)
    ranked = logits.scatter(1, rows.y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :wide]
    classes = state.classes.clone()
    classes[:, :wide] = torch.where(first[:, None], ranked, state.classes[:, :wide])
    free = grad * (room(state.x, grad) > 0)
    direction = threat.steepest(free)
    rate = (free * direction).flatten(1).sum(1)
    # Never less than rounding can take away, of the logits or of the pixels: a tie has to be left behind, too.
    grain = 4 * torch.finfo(value.dtype).eps
    offset = torch.maximum(-value, grain * logits.abs().amax(1))
    least = grain / direction.flatten(1).abs().amax(1)
    length = torch.where(rate > 0, torch.maximum(offset / rate, least), torch.inf)
    nearer = length < state.length
    place = state.place + 1
    state = dataclasses.replace(
        state,
        classes=classes,
        place=place,
        move=torch.where(per_row(nearer, direction), direction * per_row(length, direction), state.move),
        length=torch.where(nearer, length, state.length),
    )
    return state, Seen(logits, value, grad, place >= wide)


def moved(state: L, again: Tensor, x: Tensor) -> L:
    """The rows ``again``, (R,) bool, at their new points ``x``, where no class was looked at."""
    zero = torch.zeros_like(state.move)
    return dataclasses.replace(
        state,
        x=torch.where(per_row(again, x), x, state.x),
        place=torch.where(again, 0, state.place),
        move=torch.where(per_row(again, x), zero, state.move),
        length=torch.where(again, torch.inf, state.length),
    )
