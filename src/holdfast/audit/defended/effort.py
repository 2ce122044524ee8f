"""How hard a defence is attacked and how often it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.foundation.errors import BadValue


@dataclass(frozen=True)
class Effort:
    """The adaptive attack's budget, and the evaluations that score it.

    Args:
        steps: of a search at the first budget; searches on the model alone take five times as many.
        restarts: runs of a search, each with other draws and from the best point so far.
        budgets: K, ascending: a search takes K times ``steps * restarts`` gradients of one draw. The next budget is spent
            only if the one before still took off more than a standard error.
        evaluations: fresh ones of each image that score a point, of a defence that draws.
        tries: of "worst of".
        held_out: other evaluations, by which points are chosen; an image that is wrong in all of them is searched no more.
    """

    steps: int = 20
    restarts: int = 2
    budgets: tuple[int, ...] = (1, 5, 20)
    evaluations: int = 20
    tries: int = 5
    held_out: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "evaluations", "tries", "held_out"):
            if getattr(self, name) < 1:
                raise BadValue(
                    f"{name} is {getattr(self, name)}; it must be at least 1", hint=f"leave {name} out for the default"
                )
        if not self.budgets or min(self.budgets) < 1 or sorted(set(self.budgets)) != list(self.budgets):
            raise BadValue(
                f"budgets are {self.budgets}; they must be whole numbers from 1 on, ascending",
                hint="for example 1 5 20 50",
            )
        if self.tries > self.evaluations:
            raise BadValue(
                f"tries is {self.tries}, and there are {self.evaluations} evaluations",
                hint="the worst of so many needs at least as many evaluations",
            )
