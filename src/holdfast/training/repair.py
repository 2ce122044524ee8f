"""What a failed training goes on with: a recipe that is less likely to fail, as a function of the recipe and the failure."""

from __future__ import annotations

import dataclasses
from typing import Any

from holdfast.ascent.attack import Attack
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.n_fgsm import NFGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.rs_fgsm import RSFGSM
from holdfast.foundation.registry import name_of
from holdfast.training.recipe import Recipe

_MOST_STEPS = 20
"""The longest inner attack that a repair asks for."""

_DROWNED = 0.25
"""Uniform noise of that width in Linf leaves little of an image."""

_WARM_UP = 0.4
"""The share of all steps over which the radius grows anew, at least, after a net became constant."""


def repaired(recipe: Recipe, failure: str, done: float) -> tuple[Recipe, str] | None:
    """The recipe to go on with after a share ``done`` of all steps, and what was changed in words; None: there is no remedy.

    A single step becomes one from noise (de Jorge et al. 2022), that one PGD of two steps, and PGD one of twice as many;
    where the noise would drown the images a single step becomes PGD at once. A constant net gets a radius that grows anew,
    over a longer time, and half the learning rate; a loss that is no number a quarter of it.
    """
    if failure in ("catastrophic overfitting", "gradient masking"):
        threat = recipe.threat
        noisy = threat.name == "linf" and NFGSM().noise * threat.eps > _DROWNED
        changed = _stronger(recipe.objective, noisy)
        if changed is None:
            return None
        objective, words = changed
        later = tuple((start, (_stronger(each, noisy) or (each, ""))[0]) for start, each in recipe.later)
        return dataclasses.replace(recipe, objective=objective, later=later), words
    if failure == "constant network":
        warm_up = min(1 - done, max(_WARM_UP, 1.5 * recipe.warm_up))
        words = f"the radius grows anew over {warm_up:.0%} of all steps, lr is {recipe.lr / 2:g}"
        return dataclasses.replace(recipe, warm_from=done, warm_up=warm_up, lr=recipe.lr / 2), words
    if failure == "loss is no number":
        return dataclasses.replace(recipe, lr=recipe.lr / 4), f"lr is {recipe.lr / 4:g}"
    return None


def _stronger(objective: Any, drowned: bool) -> tuple[Any, str] | None:
    """The objective with an inner attack that is harder to overfit to; ``drowned``: not by noise."""
    attack = inner(objective)
    if isinstance(attack, (FGSM, RSFGSM)) and not drowned:
        new: Attack = NFGSM()
    elif isinstance(attack, (FGSM, RSFGSM, NFGSM)):
        new = PGD(steps=2)
    elif isinstance(attack, PGD) and attack.steps < _MOST_STEPS:
        new = dataclasses.replace(attack, steps=min(_MOST_STEPS, 2 * attack.steps), step_size=None)
    else:
        return None
    steps = f" of {new.steps} steps" if isinstance(new, PGD) else ""
    return dataclasses.replace(objective, attack=new), f"the inner attack is {name_of(new)}{steps}"


def inner(objective: Any) -> Attack | None:
    """The inner attack of an objective, where it has one."""
    found = {each.name: getattr(objective, each.name) for each in dataclasses.fields(objective)}.get("attack")
    return found if isinstance(found, Attack) else None
