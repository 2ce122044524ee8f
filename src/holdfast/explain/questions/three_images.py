"""Three images: which classes fill the plane through images of three classes, and do nets agree about it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor

from holdfast.attacks.options import at_least_one, positive
from holdfast.experiments.outcome import Column
from holdfast.explain.case import Case, Net
from holdfast.explain.compare import difference, interval, mean, sign
from holdfast.explain.drawing import Plane, finished, planes
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.plane_colours import coloured, legend, regions
from holdfast.explain.questions.slices import ends, faults, told
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.probes.plane import look, spanned

NUMBERS = {"foreign": "other classes", "parts": "regions", "agreement": "agrees with"}


class Triple(NamedTuple):
    """Images at these ``places`` of the case, where they lie in their plane (3, 2), and its axes (P,), in L2 of pixel
    values."""

    places: list[int]
    at: np.ndarray
    a: np.ndarray
    b: np.ndarray


@register
@dataclass(frozen=True, kw_only=True)
class ThreeImages(Probe):
    """Planes through three images of different classes: which net says what where.

    The plane through three images of different classes, which of them every net says where, into how many regions it
    breaks, and how much of it two nets agree about.

    Source: Somepalli et al., "Can neural nets learn the same model twice? Investigating reproducibility and double descent
    from the decision boundary perspective" (CVPR 2022), sections 3 and 4. Departures: agreement is the share of points, not
    of the intersection over the union of the three classes; regions count from one point of the grid on.

    Args:
        shown: how many planes are drawn.
        margin: how far the planes go beyond the images, as a share of the widest side.
        outside: what becomes of values that leave [0, 1]. ``leave``: the plane stays flat. ``clip``: they stop there.
        grid: points on a side.
    """

    question: ClassVar[str] = "What lies between images of three classes, and do the nets agree about it?"
    least: ClassVar[int] = 3

    images: int = 60
    shown: int = 2
    margin: float = 0.25
    outside: str = "leave"
    grid: int = 41

    def __post_init__(self) -> None:
        at_least_one("shown", self.shown)
        positive("margin", self.margin)
        if isinstance(self.grid, bool) or not isinstance(self.grid, int) or self.grid < 2:
            raise BadValue(f"grid is {self.grid!r}; it must be a whole number, at least 2", hint="give 41")
        if self.outside not in ("clip", "leave"):
            raise BadValue(f"outside is {self.outside!r}", hint="give one of: clip, leave")

    def effort(self, case: Case, n: int) -> Effort:
        return Effort(len(case.nets) * (n + n // 3 * self.grid**2), len(case.nets) * n)

    def ask(self, case: Case, step: Step) -> Found:
        broken = faults(case)
        asked = [net for net in case.nets if net.name not in broken]
        breaches = told(case, broken)
        images, labels, _ = case.batch(case.nets[0])
        framed = (
            self._framed(images[each], each) for each in _triples(labels.tolist(), np.random.default_rng(case.seed))
        )
        triples = [each for each in framed if each is not None]
        if not triples or not asked:
            few = () if triples else ("There are no three images of different classes: no plane was looked at.",)
            return Found((), (), caveats=few, breaches=breaches, words={"nets": []})
        seen = {net.name: self._seen(case, net, triples, step) for net in asked}
        first, names, ids = asked[0], case.labels, case.source.ids
        numbers = {
            net.name: self._numbers(case, seen[net.name], seen[first.name], [each.places for each in triples])
            for net in asked
        }
        some = slice(0, self.shown)
        arrays: dict[str, Any] = {f"{name}/classes": each["classes"][some] for name, each in seen.items()}
        arrays |= {f"{name}/outside": each["outside"][some] for name, each in seen.items()}
        arrays |= {"a": np.stack([each.a for each in triples[some]]), "b": np.stack([each.b for each in triples[some]])}
        return Found(
            (self._table(case, asked, numbers, len(triples)),),
            tuple(self._said(case, asked, numbers)),
            caveats=(
                "Little of such a plane looks like an image that a net will meet: it shows how its regions lie, not how "
                "robust it is.",
                *told(case, broken, control=True),
            ),
            breaches=breaches,
            arrays=arrays,
            words={
                "nets": [net.name for net in asked],
                "classes": names,
                "corners": [
                    [[*at, names[labels[place]]] for at, place in zip(each.at.tolist(), each.places)]
                    for each in triples[some]
                ],
                "shown": ["images " + ", ".join(str(ids[place]) for place in each.places) for each in triples[some]],
            },
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        nets = found.words["nets"]
        if not nets:
            return ()
        names, seen = found.words["classes"], {name: found.arrays[f"{name}/classes"] for name in nets}
        colours = coloured(list(seen.values()), names)
        rows = [
            [
                Plane(
                    f"{name}: {title}" if name == nets[0] else name,
                    regions(seen[name][place], colours, found.arrays[f"{name}/outside"][place]),
                    ends(found.arrays["a"][place]),
                    ends(found.arrays["b"][place]),
                    words=tuple((a, b, word) for a, b, word in found.words["corners"][place]),
                )
                for name in nets
            ]
            for place, title in enumerate(found.words["shown"])
        ]
        others = any(int(one) not in colours for each in seen.values() for one in np.unique(each))
        drawn = planes(rows, x="L2 in the plane, in pixel values", y="L2", cross=False)
        caption = (
            "The classes on planes through three images, whose labels stand where they lie. Hatched: more than half of the "
            "displacement from the first image, squared, lies outside [0, 1]."
        )
        return (Figure("planes", caption, finished(legend(colours, names, others=others), drawn)),)

    def _framed(self, corners: Tensor, places: list[int]) -> Triple | None:
        """A square around the three images, with a margin; none around images on one line, such as two that are equal."""
        try:
            at = _corners(corners)[2].double().cpu().numpy()
        except BadValue:
            return None
        low, high = at.min(0), at.max(0)
        half = (high - low).max() * (0.5 + self.margin)
        a, b = (np.linspace(middle - half, middle + half, self.grid) for middle in (low + high) / 2)
        return Triple(places, at, a, b)

    def _seen(self, case: Case, net: Net, triples: list[Triple], step: Step) -> dict[str, np.ndarray]:
        batch, classes, outside = case.batch(net), [], []
        for done, each in enumerate(triples):
            step(f"planes of {net.name}", done, len(triples))
            x = batch.x[each.places]
            u, v, _ = _corners(x)
            view = look(net.logits, x[0], u, v, each.a.tolist(), each.b.tolist(), clip=self.outside == "clip")
            classes.append(view.logits.argmax(2).int().cpu().numpy())
            outside.append(view.outside.float().cpu().numpy())
        return {"classes": np.stack(classes), "outside": np.stack(outside)}

    def _numbers(
        self, case: Case, each: dict[str, np.ndarray], first: dict[str, np.ndarray], places: list[list[int]]
    ) -> dict[str, np.ndarray]:
        labels = case.batch(case.nets[0]).y.cpu().numpy()
        return {
            "foreign": np.array([(~np.isin(seen, labels[at])).mean() for seen, at in zip(each["classes"], places)]),
            "parts": np.array([_parts(seen) for seen in each["classes"]], float),
            "agreement": (each["classes"] == first["classes"]).mean((1, 2)),
        }

    def _table(self, case: Case, asked: list[Net], numbers: dict[str, dict[str, np.ndarray]], num: int) -> Table:
        rows = tuple(
            (net.name, *(mean(numbers[net.name][key], seed=case.seed, confidence=case.confidence) for key in NUMBERS))
            for net in asked
        )
        caption = (
            f"{num} planes, each through three images of different classes that no other plane has. Means over planes with "
            f"{100 * case.confidence:g} % bootstrap intervals: the share of a plane that is none of the three classes, the "
            f"number of connected regions, and the share on which a net says what {asked[0].name} says."
        )
        heads = ("net", *list(NUMBERS.values())[:2], f"agrees with {asked[0].name}")
        return Table(caption, tuple(map(Column, heads)), rows)

    def _said(self, case: Case, asked: list[Net], numbers: dict[str, dict[str, np.ndarray]]) -> list[str]:
        trained = [net for net in asked if net.role != "untrained"]
        said = []
        for twin in trained[1:] if trained and trained[0] is case.nets[0] else ():
            ours, theirs = numbers[trained[0].name], numbers[twin.name]
            agreed = mean(theirs["agreement"], seed=case.seed, confidence=case.confidence)
            parts = difference(ours["parts"], theirs["parts"], seed=case.seed, confidence=case.confidence)
            how = {
                1: "more regions than",
                -1: "fewer regions than",
                0: "no other number of regions, as far as is seen, than",
            }
            said.append(
                f"{trained[0].name} and {twin.name} agree on a share of {interval(agreed)} of the planes; {trained[0].name} "
                f"has {how[sign(parts)]} {twin.name}: median difference {interval(parts)}, {parts.n} planes."
            )
        return said


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The plane, computed in float64 on the CPU so that all nets are shown the same one."""
    return tuple(each.to(x) for each in spanned(x.detach().cpu().double()))  # type: ignore[return-value]


def _triples(labels: list[int], draws: np.random.Generator) -> list[list[int]]:
    """Triples of places with different labels, none twice, at random."""
    left, found = draws.permutation(len(labels)).tolist(), []
    while True:
        chosen: dict[int, int] = {}
        for place in left:
            if labels[place] not in chosen and len(chosen) < 3:
                chosen[labels[place]] = place
        if len(chosen) < 3:
            return found
        found.append(list(chosen.values()))
        left = [place for place in left if place not in found[-1]]


def _parts(classes: np.ndarray) -> int:
    """How many connected regions of one class there are."""
    return sum(int(ndimage.label(classes == one)[1]) for one in np.unique(classes))  # type: ignore[index]
