"""How a net is trained, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.foundation.errors import BadValue
from holdfast.objectives.objective import Objective
from holdfast.threats.threat import Threat

OPTIMISERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "one_cycle", "piecewise", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Args:
        objective: what is minimised.
        threat: the set that the objective may use.
        epochs: passes over the data.
        batch_size: images per step.
        lr: the largest learning rate.
        schedule: how it changes, see `holdfast.training.schedule`.
        optimiser: ``adamw`` (Loshchilov and Hutter 2019) or ``sgd`` with Nesterov's momentum.
        momentum: of ``sgd``.
        weight_decay: of the weights of more than one dimension; biases and batch norms are spared.
        warm_up: the share of all steps over which the radius grows from 0. Without it small nets at large radii can end as
            constants (Madry et al. 2018, section 4).
        average: decay per step of an exponential moving average of the weights, which is then what is judged and kept
            (Izmailov et al. 2018; Rebuffi et al. 2021); 0: none. It begins as a plain mean: the decay of step t is at most
            (1 + t) / (10 + t).
        shift: images are moved by up to that many pixels at random, the border repeated.
        flip: images are mirrored at random, left to right.
        seed: of the order of the images and of every draw.
    """

    objective: Objective
    threat: Threat
    epochs: int
    batch_size: int = 64
    lr: float = 2e-3
    schedule: Literal["cosine", "one_cycle", "piecewise", "constant"] = "cosine"
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.3
    average: float = 0.0
    shift: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadValue(f"{name} is {getattr(self, name)}; it must be at least 1", hint=f"for example {name}=10")
        if not self.lr > 0:
            raise BadValue(f"lr is {self.lr}; it must be positive", hint="for example lr=0.002")
        if self.weight_decay < 0:
            raise BadValue(f"weight_decay is {self.weight_decay}; it must not be negative", hint="for example 0.0005")
        for name in ("warm_up", "average", "momentum"):
            if not 0 <= getattr(self, name) <= 1 or (name != "warm_up" and getattr(self, name) == 1):
                raise BadValue(f"{name} is {getattr(self, name)}; it is a share", hint=f"for example {name}=0.3")
        for name, allowed in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise BadValue(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}",
                    hint=f"for example {name}={allowed[0]!r}",
                )
