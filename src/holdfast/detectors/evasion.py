"""Attacks on a classifier and its detector at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.expected import SELECT, Expected, expected_worst
from holdfast.ascent.state import Rows
from holdfast.detectors.guard import Guard
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick
from holdfast.losses import best_other, margin, true_logit
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


def joint(real: Tensor, wrong: Tensor, alarm: Tensor) -> Tensor:
    """The alarm is one logit more, at its height above the largest of the others: their margin is the smaller one of the
    two once a wrong class wins, and the sum of what is missing before.

    Source: Carlini and Wagner, "Adversarial examples are not easily detected" (AISec 2017): the function G of their attack
    on detectors that are nets.
    Departure: the alarm is added to the largest logit, not multiplied with it, which needs logits above 0.
    """
    return torch.maximum(real, torch.maximum(real, wrong) + alarm)


def selective(real: Tensor, wrong: Tensor, alarm: Tensor) -> Tensor:
    """The classifier's margin until a wrong class wins, the detector's from there on: one gradient at a time, so that
    neither drowns the other, whatever the scale.

    Source: Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient descent"
    (ICLR 2022): the selective attack. Their orthogonal one needs both gradients at once, and is left out.
    """
    return torch.where(wrong > real, wrong + alarm, real)


WAYS = {"selective": selective, "joint": joint}
"""What a search climbs: ``(true logit, largest wrong one, alarm) -> the true class's height``, (N,) each."""


@dataclass(frozen=True)
class Unnoticed:
    """A guard as a classifier that an attack may fool in the standard way: logits (N, K) in which the true class is
    credited with the alarm, so that another class wins if and only if it won before and is not rejected.

    So every attack and every loss searches for what is wrong and goes unnoticed; `holdfast.losses.margin` is then the
    adaptive one. It depends on the true labels and is no prediction.

    Args:
        guard: what is attacked.
        y: the true labels of the images in every call, (N,) int64; or one, (), that all have, for the attacks that
            evaluate images in an order of their own.
        way: see `WAYS`.
    """

    guard: Guard
    y: Tensor
    way: str = "joint"

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        logits, score = self.guard.fitted(x, ids)
        y = self.y.expand(len(x))
        alarm = self.guard.alarm(score).to(logits.dtype)
        height = pick("way", self.way, WAYS)(true_logit(logits, y), best_other(logits, y), alarm)
        return logits.scatter(1, y[:, None], height[:, None])

    def at(self, *evaluation: int) -> Unnoticed:
        return replace(self, guard=replace(self.guard, fitted=self.guard.fitted.at(*evaluation)))


def evade(
    attack: Attack,
    guard: Guard,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat,
    starts: Sequence[Tensor] = (),
    seed: int = 0,
    ids: Tensor | None = None,
    rounds: int = 3,
    every: int = 5,
) -> Expected:
    """The adaptive attack: for each image the point, of all that it tried, that is furthest from being right or rejected.

    ``attack`` climbs every one of `WAYS` in turn, each from the best point so far. The result is on no image weaker than
    ``starts``, on the draws that it chooses by; where nothing is drawn, on none at all.

    Args:
        attack: of the goal ``budget``, for example ``APGD(steps=50, loss="margin")``.
        guard: the classifier and its detector.
        x: clean images, (N, C, H, W) floats in [0, 1], all searched at once.
        y: true labels, (N,) int64.
        threat: the set of allowed perturbations, of pixels.
        starts: points to begin from, like ``x``: those of the attack that knows nothing of the detector, at least.
        seed: of every random draw.
        ids: make a sample's draws of the attack its own, (N,) int64; its place in the batch unless given.
        rounds, every: as for `holdfast.ascent.expected.expected_worst`, for each way.

    Returns:
        The points; ``value`` is the joint margin there, positive where the guard fails; the evaluations are those of
        classifier and detector together.

    Raises:
        BadValue: a threat that the attack cannot search, or one whose points are no images.
    """
    attack.check(threat)
    if threat.parametric:
        raise BadValue(f"the points of {threat.name} are no images", hint="give a threat on pixels, for example Linf")
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(seed, device=x.device), ids), threat)
    judge = Unnoticed(guard, y)
    candidates, forwards, backwards = [x, *starts], 0, 0
    for way in WAYS:
        found = expected_worst(
            attack, Unnoticed(guard, y, way), rows, judge=judge, starts=candidates[1:], rounds=rounds, every=every
        )
        candidates.append(found.x)
        forwards, backwards = forwards + found.forwards, backwards + found.backwards
    best, value = candidates[0], torch.full_like(x[:, 0, 0, 0], -torch.inf)
    with torch.no_grad():
        for point in candidates:
            # By the margin, whatever the attack climbs: its sign says whether the guard fails.
            point = threat.project(x, point)
            reached = margin(judge.at(SELECT, 0)(point), y, rows.target)
            better = reached > value
            best, value = torch.where(per_row(better, x), point, best), torch.where(better, reached, value)
    return Expected(best, value, forwards + len(candidates), backwards)
