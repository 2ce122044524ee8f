"""How far the points that fool one model fool others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.attack import Attack, ranking
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.state import Rows, State, join, take
from holdfast.foundation.errors import BadData, BadModel, BadValue
from holdfast.foundation.registry import name_of
from holdfast.losses import margin
from holdfast.threats.threat import Threat
from holdfast.threats.threat import rows as per_row


@dataclass(frozen=True)
class TransferMatrix:
    """Which models the points crafted on each model fool. S sources and T targets are the same models, in one order.

    Args:
        names: the models' names.
        fooled: (S, T) float64: the share of the points crafted on S that T misclassifies, among the samples that T
            classifies correctly when clean. The diagonal is the white-box rate. NaN where T is right about none.
        n: of how many samples each column is a share, (T,) int64.
    """

    names: tuple[str, ...]
    fooled: Tensor
    n: Tensor


def transfer_matrix(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: Threat,
    seed: int = 0,
) -> TransferMatrix:
    """Crafts points on each model without asking any other, and shows them to all.

    Every search takes all its steps, as the papers on transfer have it: a search that stopped at its first success would
    hand over a point that only just fools its own model (see `crafted`).

    Args:
        models: name -> images in [0, 1] to logits; searched in eval mode and left as they were found.
        x: clean images, (N, C, H, W) floats in [0, 1], on the models' device.
        y: true labels, (N,) int64.
        attack: the search, of the goal ``budget``.
        threat: the set of allowed perturbations.
        seed: of every random draw; the same as in ``attack(model, x, y, threat=threat, seed=seed)``.

    Raises:
        BadData: no images, or labels of another number.
        BadModel: logits of a wrong shape or not finite.
        BadValue: an attack that minimises distances, a threat set that it cannot search, or no models.
    """
    attack.check(threat)
    if attack.goal != "budget":
        raise BadValue(
            f"{type(attack).__name__} stops at the nearest point that fools its own model",
            hint="transfer is measured with an attack of the goal 'budget', for example holdfast.attacks.MIM()",
        )
    if not models:
        raise BadValue("no models are given", hint='for example models={"small": small, "large": large}')
    if not len(x) or y.shape != x.shape[:1]:
        raise BadData(
            f"{len(x)} images with labels {tuple(y.shape)}", hint="pass at least one image, and a label for each"
        )
    right = {name: _logits(name, model, x).argmax(1) == y for name, model in models.items()}
    n = torch.stack([each.sum() for each in right.values()]).cpu()
    fooled = torch.zeros(len(models), len(models), dtype=torch.float64)
    for row, source in enumerate(models.values()):
        points = crafted(attack, source, x, y, threat=threat, seed=seed)
        for column, (name, target) in enumerate(models.items()):
            wrong = _logits(name, target, points).argmax(1) != y
            fooled[row, column] = (wrong & right[name]).sum().double().cpu() / n[column]
    return TransferMatrix(tuple(models), fooled, n)


def crafted(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, threat: Threat, seed: int = 0) -> Tensor:
    """For each image the point of the set to show to other models, (N, C, H, W), after all steps of all searches.

    Of a search that is its last point; if that does not fool ``model`` but an earlier one did, the earlier one. Of several
    searches it is the one by which ``model`` is most wrong. Images that ``model`` misclassifies are searched, too.
    """
    slots = engine.default_slots(x)
    places = torch.arange(len(x), device=x.device)
    key = keys.fold(keys.fold(keys.root(seed, device=x.device), places), keys.number(name_of(attack)))
    points = torch.empty_like(x)
    with frozen(model), torch.no_grad():
        searched = search_copy(model, x[:32]).module
        for part in places.split(slots):
            x0, label = x[part], y[part].to(torch.int64)
            worst = torch.full_like(x0[:, 0, 0, 0], -torch.inf)
            targets = attack.searches(ranking(model(x0), label)).to(x.device)
            for search, target in enumerate(targets.unbind(1)):
                state = _to_the_end(attack, searched, Rows(x0, label, target, keys.fold(key[part], search), threat))
                point, wrongness = _latest_success(model, state)
                points[part] = torch.where(per_row(wrongness > worst, x0), point, points[part])
                worst = torch.maximum(worst, wrongness)
    return points


def _to_the_end(attack: Attack, model: Classifier, rows: Rows) -> State:
    """The searches when all have taken all their steps, fooled or not; one that is done takes no more."""
    state, place = attack.begin(model, rows), torch.arange(len(rows), device=rows.y.device)
    ended: list[State] = []
    order: list[Tensor] = []
    while len(state):
        stays, leaves = (~state.done).nonzero()[:, 0], state.done.nonzero()[:, 0]
        if len(leaves):
            ended.append(take(state, leaves))
            order.append(place[leaves])
            state, place = take(state, stays), place[stays]
        if len(state):
            state = attack.step(model, state)
    return take(join(*ended), torch.cat(order).argsort())


def _latest_success(model: Classifier, state: State) -> tuple[Tensor, Tensor]:
    """The last point, or the best one if only that fools; and by how much the model is wrong there, in logits."""
    rows = state.rows
    none = torch.full_like(rows.y, -1)
    points = (rows.threat.project(rows.x0, point) for point in (state.x, state.best))
    last, best = (rows.threat.render(rows.x0, point) for point in points)
    at_last, at_best = model(last), model(best)
    earlier = (at_last.argmax(1) == rows.y) & (at_best.argmax(1) != rows.y)
    point = torch.where(per_row(earlier, last), best, last)
    return point, torch.where(earlier, margin(at_best, rows.y, none), margin(at_last, rows.y, none))


def _logits(name: str, model: nn.Module, x: Tensor) -> Tensor:
    with frozen(model):
        logits = torch.cat([engine.predict(model, part) for part in x.split(engine.default_slots(x))])
    if logits.dim() != 2 or not bool(torch.isfinite(logits).all()):
        raise BadModel(
            f"the model {name!r} returns {tuple(logits.shape)} for {len(x)} images, or values that are not finite",
            hint="it must return finite logits (N, K)",
        )
    return logits
