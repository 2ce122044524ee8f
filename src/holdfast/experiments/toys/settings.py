"""What ``holdfast theory toys`` may be told."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.experiments.experiment import Radius
from holdfast.foundation.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class Toys:
    """The settings of ``holdfast theory toys``. Nets are trained and judged at the same radius.

    Args:
        points: of boxes, both to train on and to be judged; ``boxes_eps``: their radius, in units of the unit square;
            ``gap``: how far in Linf any two of them are apart at least, in boxes_eps, above 2.
        rows: training points of moons and of circles; ``judged``: further ones to be judged; ``noise``: the deviation of
            each coordinate.
        moons_eps, circles_eps: their radii, in the coordinates in which scikit-learn draws them.
        hidden: units of each layer; ``depth``: layers of them.
        updates: of the weights of each net, rounded up to whole epochs; ``attack_steps``: of the PGD that is trained on.
        grid: points on a side of a square that is searched whole, odd, so that the point itself is one of them.
        search_steps: of the attacks that are held against the grid; ``restarts``: random starts of the stronger PGD.
        shown: at most so many points are drawn.
        seed: of every draw.

    Raises:
        BadValue: a value outside its range.
    """

    points: int = 20
    boxes_eps: Radius = 0.06
    gap: float = 2.2
    rows: int = 200
    judged: int = 300
    noise: float = 0.1
    moons_eps: Radius = 0.2
    circles_eps: Radius = 0.15
    hidden: int = 64
    depth: int = 2
    updates: int = 600
    attack_steps: int = 5
    grid: int = 41
    search_steps: int = 20
    restarts: int = 10
    shown: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"points": 2, "rows": 2, "judged": 2, "restarts": 2, "grid": 3, "seed": 0}
        for name in (*least, "hidden", "depth", "updates", "attack_steps", "search_steps", "shown"):
            if getattr(self, name) < least.get(name, 1):
                raise BadValue(
                    f"{name} is {getattr(self, name)}; at least {least.get(name, 1)} is needed",
                    hint=f"give {name}={least.get(name, 1)} or more",
                )
        if self.grid % 2 == 0:
            raise BadValue(f"grid is {self.grid}; it must be odd", hint=f"give grid={self.grid + 1}")
        for name in ("boxes_eps", "moons_eps", "circles_eps"):
            if not getattr(self, name) > 0:
                raise BadValue(f"{name} is {getattr(self, name)}; it must be above 0", hint=f"for example {name}=0.1")
        if not self.boxes_eps < 0.5:
            raise BadValue(
                f"boxes_eps is {self.boxes_eps}; its squares must fit into the unit square", hint="stay below 0.5"
            )
        if not self.gap > 2:
            raise BadValue(
                f"gap is {self.gap}; at 2 and below squares of two points may meet", hint="for example gap=2.2"
            )
        if not self.noise >= 0:
            raise BadValue(f"noise is {self.noise}; it must not be negative", hint="noise=0 draws clean shapes")
