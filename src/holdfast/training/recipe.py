"""How a net is trained, as data."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.foundation.errors import BadValue
from holdfast.objectives.objective import Objective
from holdfast.threats.threat import Threat


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Args:
        objective: what is minimised.
        threat: the set that the objective may use.
        epochs: passes over the data.
        batch_size: images per step.
        lr: the largest learning rate of Adam; it falls along half a cosine to 0.
        weight_decay: decoupled from the gradient (Loshchilov and Hutter 2019).
        warm_up: the share of all steps over which the radius grows from 0. Without it small nets at large radii can end as
            constants (Madry et al. 2018, section 4).
        shift: images are moved by up to that many pixels at random, the border repeated.
        seed: of the order of the images and of every draw.
    """

    objective: Objective
    threat: Threat
    epochs: int
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 5e-4
    warm_up: float = 0.3
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadValue(f"{name} is {getattr(self, name)}; it must be at least 1", hint=f"for example {name}=10")
        if not self.lr > 0:
            raise BadValue(f"lr is {self.lr}; it must be positive", hint="for example lr=0.002")
        if not 0 <= self.warm_up <= 1:
            raise BadValue(f"warm_up is {self.warm_up}; it is a share of the steps", hint="for example warm_up=0.3")
