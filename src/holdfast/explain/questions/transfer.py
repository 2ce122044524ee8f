"""Transfer: how near the nearest misclassified points are, and which other nets they fool."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.attacks.apgd import APGD
from holdfast.attacks.lbfgs import LBFGS
from holdfast.attacks.options import at_least_one, positive
from holdfast.audit.transfer import crafted
from holdfast.experiments.outcome import Cell, Column
from holdfast.explain.case import Batch, Case, Net
from holdfast.explain.compare import difference, interval, mean, none_for_nan, number, share, sign
from holdfast.explain.drawing import finished
from holdfast.explain.found import Distance, Figure, Found, Right, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.halves import halves
from holdfast.explain.questions.matrix import Matrix, Row, called, heat, packed, shown, unpacked
from holdfast.explain.questions.slices import faults
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.foundation.stats import mcnemar
from holdfast.threats.l2 import L2
from holdfast.threats.threat import rows as per_row

NOISE, RANDOM = keys.number("noise as long as a perturbation"), keys.number("a random point of the set")
FAR = 1e4
"""How long a perturbation is made before it is cut to its length, so that only its direction counts."""
USUAL = 100
"""Evaluations that L-BFGS takes for an image, about."""
LOSSES = ("ce", "margin")
"""What the white-box searches climb: where the gradients of one vanish, those of the other need not."""


@dataclass(frozen=True)
class Seen:
    """A net and what was found on it; n images.

    Args:
        right: which images it classifies rightly when clean, (n,) bool.
        nearest: the nearest misclassified points found, (n, C, H, W).
        distance: L2, to these points, (n,): 0 where the image itself is one, NaN where none was found.
        within: the points of the threat set that each white-box search ends at, (n, C, H, W) each.
    """

    net: Net
    batch: Batch
    right: np.ndarray
    nearest: Tensor
    distance: np.ndarray
    within: tuple[Tensor, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.batch.ids.tolist())

    @property
    def made(self) -> np.ndarray:
        """For which images a perturbation was made, (n,) bool."""
        return self.right & np.isfinite(self.distance)

    @property
    def distortion(self) -> np.ndarray:
        """The root mean square over pixel values of the nearest perturbations, (n,); NaN where none was made."""
        return np.where(self.made, self.distance / math.sqrt(self.batch.x[0].numel()), np.nan)


@register
@dataclass(frozen=True, kw_only=True)
class Transfer(Probe):
    """Do the points that fool one net fool others, and more than noise does?

    The nearest misclassified point of every image by box-constrained L-BFGS, its distortion sqrt(|x' - x|^2 / n) over the
    n pixel values, and the share of such points that fool every other net: as they are, stretched to one distortion, and
    those of white-box searches of the threat set; beside each the same for noise.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), sections 4.1 and 4.2, tables 1 to 4.
    Departures: points are untargeted; shares are of the images that the tested net, and the net that a perturbation was made
    on, classify rightly when clean; a stretched point has the wanted distortion after it is clipped to [0, 1], unless the
    box has no room for it.

    Args:
        matched: the distortion, RMS, that points are stretched to.
        steps: of each white-box search: one climbs the cross-entropy, one the margin.
        subsets: for so many epochs two more nets are trained on clean images, on halves of the known ones that have none in
            common (the model's own registered net where its weights name it, else ``small_cnn``); 0: none are.
    """

    question: ClassVar[str] = "Do the points that fool one net fool others, and more than noise does?"

    images: int = 100
    matched: float = 0.1
    steps: int = 40
    subsets: int = 0

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        positive("matched", self.matched)
        if isinstance(self.subsets, bool) or not isinstance(self.subsets, int) or self.subsets < 0:
            raise BadValue(f"subsets is {self.subsets!r}; it is a number of epochs", hint="0 trains no more nets")

    def effort(self, case: Case, n: int) -> Effort:
        learned = self.subsets * len(case.known) if case.known is not None else 0
        nets = len(case.nets) + (2 if learned else 0)
        gradients = n * nets * (USUAL + len(LOSSES) * self.steps) + learned
        return Effort(gradients + n * nets * (5 * nets + 2), gradients)

    def ask(self, case: Case, step: Step) -> Found:
        broken, trained = faults(case), [net.name for net in case.trained]
        parts = tuple(halves(case, self.subsets, step)) if self.subsets else ()
        nets = (*(net for net in case.nets if net.name not in broken), *parts)
        breaches = tuple(f"{name}: {why}" for name, why in broken.items() if name in trained)
        caveats = [f"{name} is left out: {why}." for name, why in broken.items()]
        if not nets:
            return Found((), (), caveats=tuple(caveats), breaches=breaches)
        seen = tuple(self._seen(case, net, step) for net in nets)
        matrices = self._matrices(case, seen)
        arrays, words = packed(matrices)
        near, moved = _nearness(case, seen), self._transferred(case, seen, matrices)
        caveats += [
            f"For {each.net.name} only the {int(each.right.sum())} images count that it classifies rightly."
            for each in seen
            if each.net.role == "untrained"
        ]
        caveats.append("A nearest point only just fools its own net: compare what transfers at one distortion.")
        if self.subsets and case.known is None:
            caveats.append("There are no known images, so that no nets were trained on subsets of them.")
        return Found(
            (_distortions(case, seen), *(each.table(case) for each in matrices.values())),
            (*near, *moved, *_within(case, seen, matrices["within"])),
            caveats=tuple(caveats),
            breaches=breaches,
            distances=tuple(
                Distance(each.net.name, "l2", "attack", "L-BFGS", each.ids, none_for_nan(each.distance))
                for each in seen
            ),
            rights=tuple(self._rights(case, seen, matrices)),
            of_images={each.net.name: {"distortion, RMS": none_for_nan(each.distortion)} for each in seen},
            arrays=arrays,
            words=words,
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        if not found.words:
            return ()
        caption = (
            "The share of images that the tested net gets wrong at the points of each row, and how many images count. "
            "Beside it the points' mean distortion, RMS over pixel values in [0, 1]."
        )
        chart = finished(*(heat(each, legend=not place) for place, each in enumerate(unpacked(found))))
        return (Figure("matrices", caption, chart),)

    def _seen(self, case: Case, net: Net, step: Step) -> Seen:
        batch, module = case.batch(net), net.model.module
        box = L2(math.sqrt(batch.x[0].numel()))  # no two images are further apart

        def told(done: int, total: int) -> None:
            step(f"L-BFGS on {net.name}", done, total)

        found = LBFGS()(module, batch.x, batch.y, threat=box, seed=case.seed, ids=batch.ids, progress=told)
        within = []
        for place, loss in enumerate(LOSSES):
            step(f"searches of {net.name}", place, len(LOSSES))
            attack = APGD(steps=self.steps, loss=loss)
            within.append(crafted(attack, module, batch.x, batch.y, threat=case.threat, seed=case.seed))  # pyrefly: ignore[bad-argument-type]
        return Seen(
            net,
            batch,
            (net.logits(batch.x).argmax(1) == batch.y).cpu().numpy(),
            found.x,
            torch.where(found.fooled, found.distance, torch.nan).double().cpu().numpy(),
            tuple(within),
        )

    def _matrices(self, case: Case, seen: Sequence[Seen]) -> dict[str, Matrix]:
        nets, batches = [each.net for each in seen], [each.batch for each in seen]
        batch, every = batches[0], np.ones(case.n, dtype=bool)
        noise = keys.normal(case.rows(batch, NOISE).key, batch.x.shape[1:], dtype=batch.x.dtype)
        radius = torch.full_like(batch.x[:, 0, 0, 0], self._radius(batch))
        nearest = [Row(called(each.net), (each.nearest,), each.made) for each in seen]
        matched, within = [], []
        for each in seen:
            if each.net.role != "untrained":
                length = torch.from_numpy(np.where(each.made, each.distance, 0)).to(batch.x)
                nearest.append(Row(f"noise as far as {each.net.name}", (_cut(batch.x, noise, length),), each.made))
            point = _cut(each.batch.x, each.nearest - each.batch.x, radius.to(each.batch.x))
            matched.append(Row(called(each.net), (point,), each.made))
            within.append(Row(called(each.net), each.within, every))
        matched.append(Row("Gaussian noise", (_cut(batch.x, noise, radius),), every))
        within.append(Row("random point", (case.threat.sample(batch.x, case.rows(batch, RANDOM).key),), every))
        return {
            "nearest": shown("Nearest points as they are", nearest, nets, batches),
            "matched": shown(f"The same, stretched to RMS {number(self.matched)}", matched, nets, batches),
            "within": shown(f"Searches within {case.within}", within, nets, batches),
        }

    def _radius(self, batch: Batch) -> float:
        """The distortion that points are stretched to, as a distance in L2."""
        return self.matched * math.sqrt(batch.x[0].numel())

    def _rights(self, case: Case, seen: Sequence[Seen], matrices: Mapping[str, Matrix]) -> Iterator[Right]:
        own = f"APGD-{self.steps} of cross-entropy and margin"
        radius, num = self._radius(seen[0].batch), len(seen)
        for t, each in enumerate(seen):
            name, ids = each.net.name, each.ids
            # A nearest point says more than the same point stretched: whether there is any within the radius.
            standing = each.right & ~(each.distance <= radius)
            yield Right(name, "l2", "white box", "L-BFGS", radius, ids, tuple(standing.tolist()))
            for key, norm, eps in (("matched", "l2", radius), ("within", case.threat.name, case.threat.eps)):
                made = own if key == "within" else "L-BFGS, stretched,"
                for s, row in enumerate(matrices[key].rows):
                    if s == t and key == "matched":
                        continue
                    how = "noise" if s == num else "white box" if s == t else "transfer"
                    by = row if s == num else own if s == t else f"{made} on {row}"
                    standing = each.right & ~matrices[key].wrong[s, t]
                    yield Right(name, norm, how, by, eps, ids, tuple(standing.tolist()))  # pyrefly: ignore[bad-argument-type]

    def _transferred(self, case: Case, seen: Sequence[Seen], matrices: Mapping[str, Matrix]) -> Iterator[str]:
        """Of the model with every other net, and of the halves: how nearest points transfer, and whether noise does less."""
        nearest, matched = matrices["nearest"], matrices["matched"]
        for (s, source), (t, tested) in permutations(enumerate(seen), 2):
            counted = matched.counted[s, t]
            parts = source.net not in case.nets and tested.net not in case.nets
            if "untrained" in (source.net.role, tested.net.role) or not (0 in (s, t) or parts) or not counted.any():
                continue
            ours, noise = matched.wrong[s, t][counted], matched.wrong[len(seen), t][counted]
            only = int((ours & ~noise).sum()), int((noise & ~ours).sum())
            gap = mcnemar(*only, n=len(ours), confidence=case.confidence).difference
            word = {1: "more than", -1: "less than", 0: "no difference is seen from"}[sign(gap)]
            shares = (nearest.share(s, t, case.confidence), matched.share(s, t, case.confidence), share(noise))
            as_is, far, drawn = (interval(each, percent=True) for each in shares)
            yield (
                f"Nearest points of {source.net.name} fool {tested.net.name} on {as_is} of {len(ours)} images, stretched to "
                f"RMS {number(self.matched)} on {far}: {word} noise as long, {drawn}."
            )


def _cut(x0: Tensor, delta: Tensor, length: Tensor) -> Tensor:
    """``x0`` moved along ``delta`` and clipped to [0, 1], at that L2 distance, (n,), as far as the box has room for it."""
    largest = delta.flatten(1).abs().amax(1).clamp_min(1e-12)
    return L2(1.0).project(x0, x0 + per_row(FAR / largest, delta) * delta, radius=length)


def _distortions(case: Case, seen: Sequence[Seen]) -> Table:
    drawn = {"seed": case.seed, "confidence": case.confidence}
    rows: list[tuple[Cell, ...]] = [
        (
            each.net.name,
            share(each.right, confidence=case.confidence),
            share(each.made[each.right], confidence=case.confidence),
            mean(each.distortion, **drawn),
            mean(np.where(each.made, each.distance, np.nan), **drawn),
            difference(seen[0].distortion, each.distortion, **drawn),
        )
        for each in seen
    ]
    caption = (
        f"{case.n} images. Distortion: the root mean square over pixel values of the nearest misclassified points that "
        "L-BFGS found, of images that the net classifies rightly. Means with bootstrap intervals; the last column is the "
        "median of the paired differences."
    )
    columns = ("net", "right", "reached", "distortion, RMS", "L2 distance", f"{seen[0].net.name} less this")
    return Table(caption, tuple(map(Column, columns)), tuple(rows))


def _nearness(case: Case, seen: Sequence[Seen]) -> Iterator[str]:
    """Whose nearest points are further away, the model's or another net's."""
    first = seen[0]
    for each in seen[1:]:
        both = int((first.made & each.made).sum())
        if each.net not in case.nets or not both:
            continue
        gap = difference(first.distortion, each.distortion, seed=case.seed, confidence=case.confidence)
        ours, theirs = (mean(one.distortion, seed=case.seed, confidence=case.confidence) for one in (first, each))
        word = {1: "further away", -1: "nearer", 0: "neither nearer nor further away, as far as can be told"}[sign(gap)]
        yield (
            f"The nearest misclassified points of {first.net.name} lie at an RMS of {interval(ours)}, those of "
            f"{each.net.name} at {interval(theirs)}; on the {both} images that count for both they are {word}: "
            f"{interval(gap)} in the median."
        )


def _within(case: Case, seen: Sequence[Seen], matrix: Matrix) -> Iterator[str]:
    """What the points of others break that a net's own searches do not."""
    for t, tested in enumerate(seen):
        standing = tested.right & ~matrix.wrong[t, t]
        others = [(int((matrix.wrong[s, t] & standing).sum()), each.net.name) for s, each in enumerate(seen) if s != t]
        if tested.net.role == "untrained" or not others:
            continue
        most, by = max(others)
        told = f"of these, points of {by} break {most}" if most else "points of other nets break none of these"
        yield f"Within {case.within} {tested.net.name}'s own searches leave {int(standing.sum())} of {case.n} right: {told}."
