"""How a net is trained, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from holdfast.foundation.errors import BadValue
from holdfast.objectives.objective import Carrying, Objective
from holdfast.threats.threat import Threat

OPTIMISERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "one_cycle", "piecewise", "constant")
AVERAGES = ("exponential", "uniform")
PRECISIONS = ("full", "bfloat16")
WATCHES = ("repair", "stop", "warn")


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Args:
        objective: what is minimised.
        threat: the set that the objective may use.
        epochs: passes over the data.
        batch_size: images per step, of all processes together.
        accumulate: parts that a process does its share of a step in, one after the other, for less memory. The step stays
            the same up to rounding, batch norm aside, so that a training may go on with another number.
        lr: the largest learning rate.
        schedule: how it changes, see `holdfast.training.schedule`.
        optimiser: ``adamw`` (Loshchilov and Hutter 2019) or ``sgd`` with Nesterov's momentum.
        momentum: of ``sgd``.
        weight_decay: of the weights of more than one dimension; biases and batch norms are spared.
        later: other objectives, each from a share of the steps on: more attack steps, another attack, other weights.
        replays: steps in a row on each batch (free adversarial training).
        warm_up: the share of all steps over which the radius grows from 0. Without it small nets at large radii can end as
            constants (Madry et al. 2018, section 4).
        warm_from: the share of the steps after which it begins to grow.
        awp: how far the weights are perturbed, in their own norm (`holdfast.training.awp`); 0: not at all.
        awp_from: the share of the steps after which they are.
        align: the weight of the misalignment of gradients (`holdfast.training.grad_align`); 0: none.
        average: decay per step of a moving average of the weights, which is then what is judged and kept; 0: none.
        averaging: ``exponential``, or ``uniform``, the plain mean, for any ``average`` above 0
            (`holdfast.training.averaging`).
        average_from: the share of the steps after which the average begins.
        extra_share: the share of each batch that comes from the extra data, where there are any.
        shift: images are moved by up to that many pixels at random, the border repeated.
        flip: images are mirrored at random, left to right.
        precision: what the inner attack's copy of the net computes in: ``full``, the net's own type, or ``bfloat16``, which
            halves the search where the hardware has it and slows it down elsewhere; images, steps and loss stay as they are.
        watch: what the watchdog does about a failure: ``repair``, ``stop`` or ``warn``.
        seed: of the order of the images and of every draw.
    """

    objective: Objective
    threat: Threat
    epochs: int
    batch_size: int = 64
    accumulate: int = field(default=1, repr=False)  # trainings are told apart by what is shown
    lr: float = 2e-3
    schedule: Literal["cosine", "one_cycle", "piecewise", "constant"] = "cosine"
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    later: tuple[tuple[float, Objective], ...] = ()
    replays: int = 1
    warm_up: float = 0.3
    warm_from: float = 0.0
    awp: float = 0.0
    awp_from: float = 0.0
    align: float = 0.0
    average: float = 0.0
    averaging: Literal["exponential", "uniform"] = "exponential"
    average_from: float = 0.0
    extra_share: float = 0.7
    shift: int = 0
    flip: bool = False
    precision: Literal["full", "bfloat16"] = "full"
    watch: Literal["repair", "stop", "warn"] = "repair"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "replays"):
            _whole(name, getattr(self, name))
        if not self.lr > 0:
            raise BadValue(f"lr is {self.lr}; it must be positive", hint="for example lr=0.002")
        for name in ("weight_decay", "awp", "align"):
            if not getattr(self, name) >= 0:
                raise BadValue(
                    f"{name} is {getattr(self, name)}; it must not be negative", hint=f"{name}=0 leaves it out"
                )
        for name in ("average", "momentum", "warm_from", "awp_from", "average_from", "extra_share", "warm_up"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 1 and name in ("average", "momentum")):
                raise BadValue(f"{name} is {value}; it is a share", hint=f"for example {name}=0.3")
        for name, allowed in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("averaging", AVERAGES),
            ("precision", PRECISIONS),
            ("watch", WATCHES),
        ):
            if getattr(self, name) not in allowed:
                raise BadValue(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}",
                    hint=f"for example {name}={allowed[0]!r}",
                )
        starts = [start for start, _ in self.later]
        if starts != sorted(starts) or not all(0 < start < 1 for start in starts):
            raise BadValue(
                f"later begins at {starts}; shares of the steps, in order", hint="for example 0.5, then 0.75"
            )
        if self.replays > 1 and not isinstance(self.objective, Carrying):
            raise BadValue(
                f"replays is {self.replays}, and {type(self.objective).__name__} keeps nothing from step to step",
                hint='use objective = "free", or replays = 1',
            )

    def objective_at(self, done: float) -> Objective:
        """What is minimised after a share ``done`` of all steps."""
        return next((each for start, each in reversed(self.later) if done >= start), self.objective)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadValue(f"{name} is {value!r}; it must be a whole number, at least 1", hint=f"for example {name}=10")
