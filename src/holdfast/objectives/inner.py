"""How the objectives find the points that they train on: an attack on the model as it will be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.inner import worst
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.foundation.registry import pick
from holdfast.losses import Loss, kl
from holdfast.objectives import options
from holdfast.objectives.objective import Examples
from holdfast.threats.threat import Threat

NOISE = keys.number("noise under the start")

AT_ONCE = 64 * 3072
"""Values that are searched at once on a CPU: larger activations cost page faults and cache misses."""


class Pairs(NamedTuple):
    """Images ``x`` and their adversarial points ``moved``, (N, C, H, W) each, and the labels ``y`` (N,) int64."""

    x: Tensor
    moved: Tensor
    y: Tensor


def search(
    attack: Attack, model: Classifier, batch: Examples, threat: Threat, *, rises: Loss | None = None, noise: float = 0.0
) -> Tensor:
    """The last points, (N, C, H, W) in [0, 1], of an attack on the frozen model in eval mode; no gradient leads to them.

    Args:
        attack: the inner maximisation.
        model: images -> logits.
        batch: what it starts from.
        threat: the set of allowed perturbations.
        rises: what rises in place of the attack's own loss, at the batch's rows in their order; the attack must be a
            `holdfast.ascent.steepest.SteepestAttack` then.
        noise: the deviation of normal noise that is then added to the attack's start.
    """
    attack.check(threat)
    if rises is not None:
        options.climbs(attack)
        assert isinstance(attack, SteepestAttack)
        attack = _Raising(attack, rises, noise)

    def found(part: Examples) -> Tensor:
        return worst(attack, model, Rows(part.x, part.y, torch.full_like(part.y, -1), part.key, threat))

    with frozen(model):
        return found(batch) if rises is not None else apart(found, batch)


def apart(find: Callable[[Examples], Tensor], batch: Examples) -> Tensor:
    """What ``find`` says of a batch, asked in parts where the batch is more than a CPU's caches like."""
    count = len(batch.x)
    size = max(1, AT_ONCE // max(1, batch.x[:1].numel())) if batch.x.device.type == "cpu" else count
    if size >= count:
        return find(batch)
    every = (slice(at, at + size) for at in range(0, count, size))
    return torch.cat([find(Examples(batch.x[rows], batch.y[rows], batch.key[rows])) for rows in every])


def diverging(attack: Attack, model: Classifier, batch: Examples, threat: Threat) -> Tensor:
    """The points whose predictions are furthest, by the divergence `holdfast.losses.kl`, from those on the clean images.

    A divergence has no gradient at its minimum, the clean image. So normal noise of deviation 0.001 is added to the
    attack's start (Zhang et al. 2019, algorithm 1, who start from that noise alone). The clean images are evaluated once.
    """

    def found(part: Examples) -> Tensor:
        with frozen(model), torch.no_grad():
            reference = model(part.x)
        return search(attack, model, part, threat, rises=lambda logits, y, target: kl(logits, reference), noise=0.001)

    return apart(found, batch)


CLIMBS = {"own": search, "kl": diverging}
"""What the attack of an objective can climb: its own loss, or the divergence from the clean prediction (KL-PGD)."""


def check(climbs: str, attack: Attack) -> None:
    """Refuses choices that `CLIMBS` does not have, and attacks that cannot climb what was chosen."""
    if pick("climbs", climbs, CLIMBS) is diverging:
        options.climbs(attack)


def moved(attack: Attack, model: Classifier, batch: Examples, threat: Threat, climbs: str) -> Tensor:
    """The points, (N, C, H, W) in [0, 1], at which an attack ends that climbs what that entry of `CLIMBS` says."""
    return CLIMBS[climbs](attack, model, batch, threat)


@dataclass(frozen=True)
class _Raising(SteepestAttack):
    """``attack`` with another loss, and noise of that deviation under its start."""

    attack: SteepestAttack
    rises: Loss
    noise: float
    loss: str = "as given"

    @property
    def objective(self) -> Loss:
        return self.rises

    def rule(self, threat: Threat) -> Steepest:
        rule = self.attack.rule(threat)

        def start(rows: Rows) -> Tensor:
            x = rule.start(rows)
            return x + self.noise * keys.normal(keys.fold(rows.key, NOISE), x.shape[1:], dtype=x.dtype)

        return dataclasses.replace(rule, loss=self.rises, start=start if self.noise else rule.start)
