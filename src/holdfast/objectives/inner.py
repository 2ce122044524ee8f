"""How the objectives find the points that they train on: an attack on the model as it will be used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.inner import worst
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows
from holdfast.ascent.steepest import Steepest, SteepestAttack
from holdfast.losses import Loss, kl
from holdfast.objectives.objective import Examples
from holdfast.objectives.options import climbs
from holdfast.threats.threat import Threat

NOISE = keys.number("noise under the start")


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
        climbs(attack)
        assert isinstance(attack, SteepestAttack)
        attack = _Raising(attack, rises, noise)
    with frozen(model):
        return worst(attack, model, Rows(batch.x, batch.y, torch.full_like(batch.y, -1), batch.key, threat))


def diverging(attack: Attack, model: Classifier, batch: Examples, threat: Threat) -> Tensor:
    """The points whose predictions are furthest, by the divergence `holdfast.losses.kl`, from those on the clean images.

    A divergence has no gradient at its minimum, the clean image. So normal noise of deviation 0.001 is added to the
    attack's start (Zhang et al. 2019, algorithm 1, who start from that noise alone). The clean images are evaluated once.
    """
    with frozen(model), torch.no_grad():
        reference = model(batch.x)
    return search(attack, model, batch, threat, rises=lambda logits, y, target: kl(logits, reference), noise=0.001)


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
