"""Decision boundary: how far is it, adversarially and at random, and what do the planes around images look like?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from holdfast.attacks.options import at_least_one, positive
from holdfast.experiments.charts import Panel, Point, lines
from holdfast.experiments.outcome import Column, Estimate
from holdfast.explain.case import Case, Net
from holdfast.explain.compare import difference, interval, median, none_for_nan, share, sign
from holdfast.explain.drawing import finished
from holdfast.explain.found import Distance, Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.plane_colours import HATCHED
from holdfast.explain.questions.slices import (
    adversarial,
    at_random,
    draw_losses,
    draw_regions,
    faults,
    slices,
    spread,
    tangents,
    told,
)
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import margin
from holdfast.probes.plane import across, first_change, moved, sized

WAYS = {"adversarial": "along u", "gradient": "along the gradient", "typical": "along random"}
NUMBERS = {**WAYS, "ratio": "u / random", "area": "own area", "top": "largest loss"}
COARSE, ROUNDS = 24, 10
"""Of a line: equal steps out to its far end, then bisections."""
WIDER = 1.5
"""The radius, in eps, of a second search: on images that hold within eps, the first one does not look for the boundary."""
BEYOND = 1e6
"""Stands for infinity where quantiles are taken."""


@register
@dataclass(frozen=True, kw_only=True)
class DecisionBoundary(Probe):
    """How far the class first changes along adversarial, gradient and random directions, and slices of it.

    How far the class first changes along the adversarial direction u, along the gradient and at random; and slices
    x + a u + b v.

    u points to where PGD on the margin ends inside the threat set and is eps long in its norm; v is a random sign vector
    (Linf; else Gaussian) made orthogonal to u, and as long in L2. Distances are those of the threat's norm, between an image
    and the point where the class changes. Images that a net gets wrong do not count; of the untrained net all do, from the
    class that it says.

    Source: Liu et al., "Delving into transferable adversarial examples and black-box attacks" (ICLR 2017), for planes of an
    adversarial and a random direction. Departures: theirs is the gradient, u the end of a search; what is drawn of the
    threat set is its exact section, which in Linf is no upright square.

    Args:
        shown: how many images are drawn.
        random: random directions of each image.
        steps: of the search for u.
        direction: ``own``: each net is looked at along its own u; ``shared``: all along the model's.
        outside: what becomes of values that leave [0, 1]. ``clip``: they stop there, so that every point is an image.
            ``leave``: lines and planes stay straight, and no distance counts as an attack.
        reach: how far the slices go on each side, in eps.
        far: how far the lines go, in eps.
        grid: points on a side of a slice that is drawn; areas and largest losses are taken from every second one.
    """

    question: ClassVar[str] = "How far is the decision boundary, and is it nearer where an adversary looks?"

    images: int = 60
    shown: int = 3
    random: int = 5
    steps: int = 40
    direction: str = "own"
    outside: str = "clip"
    reach: float = 2.0
    far: float = 4.0
    grid: int = 41

    def __post_init__(self) -> None:
        for name in ("shown", "random", "steps", "grid"):
            at_least_one(name, getattr(self, name))
        positive("reach", self.reach)
        positive("far", self.far)
        if self.grid < 5 or self.grid % 4 != 1:
            raise BadValue(f"grid is {self.grid}; every second of its points must meet the image", hint="give 21 or 41")
        for name, allowed in (("direction", ("own", "shared")), ("outside", ("clip", "leave"))):
            if getattr(self, name) not in allowed:
                raise BadValue(f"{name} is {getattr(self, name)!r}", hint=f"give one of: {', '.join(allowed)}")

    def effort(self, case: Case, n: int) -> Effort:
        points = n * len(self._axis[::2]) ** 2 + min(n, self.shown) * self.grid**2
        each = n * ((3 + self.random) * (COARSE + ROUNDS) + 2 * self.steps + 3) + points
        return Effort(len(case.nets) * each, len(case.nets) * n * (2 * self.steps + 2))

    def ask(self, case: Case, step: Step) -> Found:
        broken, first = faults(case), case.nets[0]
        shared = self.direction == "shared"
        asked = [net for net in case.nets if net.name not in broken and not (shared and first.name in broken)]
        u = adversarial(case, first, case.batch(first), steps=self.steps) if shared and asked else None
        seen = {net.name: self._seen(case, net, u, step) for net in asked}
        arrays: dict[str, Any] = {"axis": np.array(self._axis)}
        shown = spread([seen[net.name]["adversarial"] for net in asked], self.shown)
        for net in asked:
            each, batch = seen[net.name], case.batch(net)
            arrays |= {f"{net.name}/{kind}": each[kind] for kind in WAYS}
            taken = slices(case, net, batch, each["u"], each["v"], shown, self._axis, clip=self._clip)
            arrays |= {f"{net.name}/{key}": value for key, value in taken.items()}
        names, ids, labels = case.labels, case.source.ids, case.batch(first).y.tolist()
        tables = (self._distances(case, asked, seen), *self._differences(case, asked, seen)) if asked else ()
        return Found(
            tables,
            tuple(self._said(case, asked, seen)),
            caveats=(
                f"Along lines {COARSE} points out to {self.far:g} eps are looked at: a region between two is missed, "
                "and every distance is an upper bound.",
                f"Of random directions there are {self.random} for each image: along others the boundary may be nearer.",
                *told(case, broken, control=True),
            ),
            breaches=told(case, broken),
            distances=tuple(self._facts(case, asked, seen)) if self._clip else (),
            of_images={
                name: {f"boundary {WAYS[way]}, eps": none_for_nan(each[way]) for way in ("adversarial", "typical")}
                for name, each in seen.items()
            },
            arrays=arrays,
            words={
                "nets": [net.name for net in asked],
                "classes": names,
                "shown": [f"{ids[place]} ({names[labels[place]]})" for place in shown],
                "within": case.within,
            },
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        if not found.words["nets"]:
            return ()
        whose = "of each net" if self.direction == "own" else f"of {found.words['nets'][0]}, shared by all"
        said = (
            f"through images (the cross) along the adversarial direction u {whose} and a random direction v"
            f"{'; values stop at 0 and 1' if self._clip else ''}. Titles: net, image, class. Black: the rim of "
            f"{found.words['within']}."
        )
        hatched = f" Hatched: more than {HATCHED:.0%} of the displacement, squared, lies outside [0, 1]."
        unchanged = "Images whose class has not changed so far along a line; bands are 95 % intervals."
        return (
            Figure("slices", f"The classes on slices {said}{hatched}", draw_regions(found)),
            Figure("losses", f"The loss on slices {said} One scale for all.", draw_losses(found)),
            Figure("distances", unchanged, _curves(found, self.far)),
        )

    @property
    def _axis(self) -> list[float]:
        return np.linspace(-self.reach, self.reach, self.grid).tolist()

    @property
    def _clip(self) -> bool:
        return self.outside == "clip"

    def _seen(self, case: Case, net: Net, u: Tensor | None, step: Step) -> dict[str, Any]:
        """Of one net: distances in eps, NaN where an image does not count and inf where the class does not change."""
        batch, threat, name = case.batch(net), case.threat, f"boundary of {net.name}"
        x, says = batch.x, net.logits(batch.x).argmax(1)
        batch = batch._replace(y=says) if net.role == "untrained" else batch
        counts, total = (says == batch.y).cpu().numpy(), 5 + self.random
        step(name, 0, total)
        u = adversarial(case, net, batch, steps=self.steps) if u is None else u.to(x)
        random = [across(at_random(case, batch, place), u) for place in range(self.random)]
        eps = WIDER * threat.eps
        wider = replace(case, threat=threat.resized(min(eps, 1.0) if threat.name == "linf" else eps))
        gradient = threat.steepest(tangents(net, margin, x, batch.y).grad)
        found = []
        for place, way in enumerate([u, gradient, adversarial(wider, net, batch, steps=self.steps), *random]):
            step(name, 1 + place, total)
            way = sized(threat, way)
            t = first_change(net.logits, x, batch.y, way, far=self.far, coarse=COARSE, rounds=ROUNDS, clip=self._clip)
            end = moved(x, way, t.nan_to_num(posinf=0), clip=self._clip)
            distance = torch.where(torch.isfinite(t), threat.distance(x, end) / threat.eps, t).double()
            distance[way.flatten(1).abs().amax(1) == 0] = torch.nan
            found.append(np.where(counts, distance.cpu().numpy(), np.nan))
        step(name, total - 1, total)
        every = [
            slices(case, net, batch, u, random[0], [one], self._axis[::2], clip=self._clip) for one in range(len(x))
        ]
        own = np.array([(each["classes"][0] == label).mean() for each, label in zip(every, batch.y.tolist())])
        top = np.array([each["loss"].max() for each in every])
        typical = np.quantile(np.where(np.isinf(found[3:]), BEYOND, found[3:]), 0.5, axis=0, method="higher")
        ratio = np.minimum(found[0], self.far) / np.minimum(typical, self.far)
        ratio[np.isinf(found[0]) & (typical == BEYOND)] = np.nan
        return {
            **{"adversarial": found[0], "gradient": found[1], "typical": np.where(typical == BEYOND, np.inf, typical)},
            **{"wider": found[2], "nearest": np.min(found[3:], axis=0), "ratio": ratio, "u": u, "v": random[0]},
            **{"area": np.where(counts, own, np.nan), "top": np.where(counts, top, np.nan)},
        }

    def _median(self, case: Case, values: np.ndarray) -> Estimate:
        """The median in which what lies beyond the far end is infinite."""
        found = median(np.where(np.isinf(values), BEYOND, values), seed=case.seed, confidence=case.confidence)
        value, low, high = (math.inf if end > 2 * self.far else end for end in (found.value, found.low, found.high))
        return replace(found, value=value, low=low, high=high)

    def _distances(self, case: Case, asked: list[Net], seen: dict[str, Any]) -> Table:
        rows = []
        for net in asked:
            each, cells = seen[net.name], []
            for way in WAYS:
                none = np.isinf(each[way][~np.isnan(each[way])])
                cells += [self._median(case, each[way]), share(none, confidence=case.confidence)]
            cells += [median(each[key], seed=case.seed, confidence=case.confidence) for key in ("ratio", "area", "top")]
            rows.append((net.name, int((~np.isnan(each["adversarial"])).sum()), *cells))
        whose = "of each net" if self.direction == "own" else f"of {case.nets[0].name}"
        inside = "Values leave [0, 1]: these are distances in space, not of images."
        caption = (
            f"{case.n} images, {case.within}; those that a net gets wrong do not count, of the untrained net all do, from "
            "the class that it says. Medians of the distance in eps at which the class first changes: along u, where "
            f"PGD-{self.steps} {whose} ends, along the gradient of the margin, and along the middle one of {self.random} "
            f"random directions orthogonal to u. None: not within {self.far:g} eps, which medians take as infinite. "
            f"{'Values stop at 0 and 1: every point is an image.' if self._clip else inside} "
            f"u / random: of the same image, cut at {self.far:g} eps, unless both are. Own area and largest loss "
            f"(cross-entropy): on the slice within {self.reach:g} eps. {100 * case.confidence:g} % intervals, of medians by "
            "bootstrap."
        )
        heads = [head for words in WAYS.values() for head in (f"{words}, eps", "none")]
        return Table(caption, tuple(map(Column, ("net", "images", *heads, *list(NUMBERS.values())[3:]))), tuple(rows))

    def _paired(self, case: Case, ours: dict[str, Any], theirs: dict[str, Any], kind: str) -> Estimate:
        """The median of paired differences, of distances that are cut at the far end."""
        cut = self.far if kind in WAYS else math.inf
        pair = (np.minimum(each[kind], cut) for each in (ours, theirs))
        return difference(*pair, seed=case.seed, confidence=case.confidence)

    def _differences(self, case: Case, asked: list[Net], seen: dict[str, Any]) -> tuple[Table, ...]:
        first, *rest = asked
        rows = []
        for net in rest:
            cells = (self._paired(case, seen[first.name], seen[net.name], kind) for kind in NUMBERS)
            rows.append((f"{first.name} - {net.name}", *cells))
        columns = (Column("net"), *(Column(head, "eps" if kind in WAYS else "") for kind, head in NUMBERS.items()))
        caption = f"Medians of differences on the same images, where both count; distances cut at {self.far:g} eps."
        return (Table(caption, columns, tuple(rows)),) if rows else ()

    def _said(self, case: Case, asked: list[Net], seen: dict[str, Any]) -> list[str]:
        said, trained = [], [net for net in asked if net.role != "untrained"]
        whose = "" if self.direction == "own" else f" of {case.nets[0].name}"
        ways = {"adversarial": f"the adversarial direction{whose}", "typical": "a random direction"}
        for net in trained:
            each, parts = seen[net.name], []
            for way, words in ways.items():
                found = self._median(case, each[way])
                at = f"at {interval(found)} eps" if math.isfinite(found.value) else f"not within {self.far:g} eps"
                parts.append(f"{at} along {words}")
            said.append(f"{net.name}: at the median of {found.n} images the class changes {' and '.join(parts)}.")
            ratio = median(each["ratio"], seed=case.seed, confidence=case.confidence)
            if ratio.n:
                part = f"{interval(ratio)} of the second at the median of {ratio.n} images."
                said.append(f"{net.name}: the first of these distances is {part}")
        for twin in trained[1:] if trained and trained[0] is case.nets[0] else ():
            for way, words in ways.items():
                found = self._paired(case, seen[trained[0].name], seen[twin.name], way)
                how = {1: "further away than", -1: "nearer than", 0: "not seen to differ from"}[sign(found)]
                if found.n:
                    said.append(
                        f"Along {words} the boundary of {trained[0].name} is {how} that of {twin.name}: paired difference "
                        f"{interval(found)} eps, {found.n} images."
                    )
        return said

    def _facts(self, case: Case, asked: list[Net], seen: dict[str, Any]) -> list[Distance]:
        norm: Any = case.threat.name
        ids, whose = tuple(map(int, case.source.ids)), "" if self.direction == "own" else f" of {case.nets[0].name}"
        facts: tuple[tuple[str, Any, str], ...] = (
            ("adversarial", "attack", f"a line to the end of PGD-{self.steps}{whose}"),
            ("gradient", "attack", "a line along the gradient"),
            ("wider", "attack", f"a line to the end of PGD-{self.steps} within {WIDER:g} eps"),
            ("nearest", "random", f"the nearest of {self.random} random lines"),
        )
        return [
            Distance(net.name, norm, kind, by, ids, none_for_nan(seen[net.name][key] * case.threat.eps))
            for net in asked
            if net.role != "untrained"
            for key, kind, by in facts
        ]


def _curves(found: Found, far: float) -> Any:
    panels = []
    for name in found.words["nets"]:
        points = []
        for way, words in WAYS.items():
            values = found.arrays[f"{name}/{way}"]
            values = values[~np.isnan(values)]
            points += [Point(words, float(at), share(values > at)) for at in np.linspace(0, far, 21)]
        panels.append(Panel(name, points))
    return finished(lines(panels, x="distance, in eps", y="class unchanged", dots=False, series=list(WAYS.values())))
