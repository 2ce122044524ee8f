"""Restarts: do searches from many random points end alike, and is the evaluation converged?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import altair as alt
import numpy as np
import torch
from torch import Tensor

from holdfast.ascent.inner import worst
from holdfast.attacks.options import at_least_one
from holdfast.attacks.pgd import PGD
from holdfast.experiments.charts import Panel, Point, lines
from holdfast.experiments.outcome import Cell, Column
from holdfast.explain.case import Batch, Case, Net
from holdfast.explain.compare import larger, median, none_for_nan, number, share
from holdfast.explain.drawing import finished
from holdfast.explain.found import Figure, Found, Right, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.foundation.registry import register
from holdfast.losses import ce, margin
from holdfast.report.charts import COLOURS, INK, styled, table

LEAST_LOSS = 1e-6
"""Losses below are drawn there: their axis is logarithmic."""
SHOWN = 5
"""Images whose losses are drawn one by one."""


@register
@dataclass(frozen=True, kw_only=True)
class Restarts(Probe):
    """Many searches of every image from random points: do they agree, and would more of them break more?

    Many searches of every image from random points: how far their final losses spread, how different the points are that
    they end at, how many images some of them fool and others do not, and robust accuracy against their number.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018), section 5.1 and
    appendix A. Departures: losses are drawn for single images, since one histogram of all mixes easy with hard ones; a
    search ends at its last point, fooled or not.

    Args:
        num: how many searches of each image.
        steps: of each, of 2.5 radii over ``steps``.
        pairs: of end points, drawn at random, whose angle and middle are looked at.
    """

    question: ClassVar[str] = "Does the evaluation hold, or would more restarts break more images?"

    images: int = 20
    num: int = 50
    steps: int = 40
    pairs: int = 20

    def __post_init__(self) -> None:
        for name in ("num", "steps", "pairs"):
            at_least_one(name, getattr(self, name))

    def effort(self, case: Case, n: int) -> Effort:
        each = n * len(case.nets) * self.num * self.steps
        return Effort(each + n * len(case.nets) * (self.num + self.pairs + 1), each)

    def ask(self, case: Case, step: Step) -> Found:
        seen = {net.name: self._seen(case, net, step) for net in case.nets}
        model = case.nets[0].name
        rows, sentences, rights, of_images = [], [], [], {}
        for net in case.nets:
            each = seen[net.name]
            loss, wrong = each["loss"], each["wrong"]
            rows.append(self._row(case, net, each))
            standing = _standing(wrong)
            rights += [
                Right(
                    net.name,
                    case.threat.name,  # pyrefly: ignore[bad-argument-type]
                    "white box",
                    f"PGD-{self.steps} from random starts",
                    case.threat.eps,
                    tuple(each["ids"].tolist()),
                    tuple(bool(one) for one in standing[:, count - 1]),
                    strength=count,
                )
                for count in self._counts
            ]
            of_images[net.name] = {
                "largest loss": none_for_nan(loss.max(1)),
                "median loss": none_for_nan(np.median(loss, 1)),
                "share of restarts that fool": none_for_nan(wrong.mean(1)),
            }
            if net.role != "untrained":
                sentences += self._said(case, net.name, wrong, standing)
        for twin in case.trained[1:]:
            ours, theirs = (np.median(seen[name]["loss"], 1) for name in (model, twin.name))
            sentences.append(
                f"The median final loss is {number(float(np.median(ours)))} for {model} and "
                f"{number(float(np.median(theirs)))} for {twin.name}; a loss of {model} is larger than one of {twin.name} "
                f"with a probability of {larger(ours, theirs):.2f}."
            )
        caption = (
            f"{case.n} images, {self.num} searches of {self.steps} steps of PGD each, {case.within}; cross-entropy. Medians "
            "over images with 95 % bootstrap intervals. Spread and excess are those of one image's final losses: "
            "interquartile range and largest value, over their median. Angles between the perturbations that pairs of "
            "searches end at; the middle: the loss half-way between them, over that at the ends."
        )
        before = self._counts[-2] if len(self._counts) > 1 else 1
        columns = (
            *(
                "net",
                "median loss",
                "largest loss",
                "spread",
                "excess",
                "angle, degrees",
                "middle / ends",
                "random point, loss",
            ),
            *("robust after 1", f"after {before}", f"after {self.num}", "restarts disagree"),
        )
        return Found(
            (Table(caption, tuple(map(Column, columns)), tuple(rows)),),
            tuple(sentences),
            caveats=(
                "Robust accuracy here is that of one plain attack on few images; an audit's is smaller or equal.",
                "Even a flat curve over restarts does not show that no other attack does better.",
            ),
            rights=tuple(rights),
            of_images=of_images,
            arrays={f"{name}/{key}": value for name, each in seen.items() for key, value in each.items()},
            words={"nets": [net.name for net in case.nets], "counts": list(self._counts)},
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        nets, counts = found.words["nets"], found.words["counts"]
        points = []
        for name in nets:
            wrong = found.arrays[f"{name}/wrong"]
            standing = _standing(wrong)
            points += [Point(name, float(count), share(standing[:, count - 1])) for count in counts]
        curve = lines([Panel("", points)], x="restarts", y="robust accuracy", log=True, series=nets)
        return (
            Figure(
                "losses", f"Final losses of {SHOWN} images, every search a dot, on one scale.", _losses(found, nets)
            ),
            Figure(
                "restarts", "Robust accuracy against the number of restarts; bands are 95 % intervals.", finished(curve)
            ),
        )

    @property
    def _counts(self) -> tuple[int, ...]:
        """The numbers of restarts of the curve: 1, 2, 5, 10, ... and all."""
        ladder = [base * 10**power for power in range(6) for base in (1, 2, 5)]
        return (*(each for each in ladder if each < self.num), self.num)

    def _seen(self, case: Case, net: Net, step: Step) -> dict[str, np.ndarray]:
        """Of one net: every search's final loss and whether it fools, (n, num), and what the pairs show, (n,)."""
        batch, attack = case.batch(net), PGD(steps=self.steps)
        none = torch.full_like(batch.y, -1)
        loss, wrong, ends = [], [], []
        for number_ in range(self.num):
            step(f"restarts of {net.name}", number_, self.num)
            x = case.threat.project(batch.x, worst(attack, net.model, case.rows(batch, number_)))
            logits = net.logits(x)
            loss.append(ce(logits, batch.y, none))
            wrong.append(margin(logits, batch.y, none) > 0)
            ends.append((x - batch.x).flatten(1))
        rim = case.threat.sample(batch.x, case.rows(batch, self.num).key)
        angles, middles = self._pairs(net, batch, torch.stack(ends, 1), torch.stack(loss, 1), case.seed)
        return {
            "ids": batch.ids.cpu().numpy(),
            "loss": torch.stack(loss, 1).double().cpu().numpy(),
            "wrong": torch.stack(wrong, 1).cpu().numpy(),
            "angle": angles,
            "middle": middles,
            "random": ce(net.logits(rim), batch.y, none).double().cpu().numpy(),
        }

    def _pairs(self, net: Net, batch: Batch, ends: Tensor, loss: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Median angle in degrees between two ends, and median loss half-way over the mean of their losses, (n,) each."""
        num = ends.shape[1]
        if num < 2:
            return np.full(len(ends), np.nan), np.full(len(ends), np.nan)
        draws, none = np.random.default_rng(seed), torch.full_like(batch.y, -1)
        angles, middles = [], []
        for _ in range(self.pairs):
            one, other = draws.choice(num, 2, replace=False)
            first, second = ends[:, one].double(), ends[:, other].double()
            cosine = torch.cosine_similarity(first, second, dim=1)
            angles.append(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
            middle = batch.x + ((ends[:, one] + ends[:, other]) / 2).view_as(batch.x)
            middles.append(2 * ce(net.logits(middle), batch.y, none) / (loss[:, one] + loss[:, other]))
        return tuple(torch.stack(each, 1).double().median(1).values.cpu().numpy() for each in (angles, middles))  # type: ignore[return-value]

    def _row(self, case: Case, net: Net, each: dict[str, np.ndarray]) -> tuple[Cell, ...]:
        loss, wrong, seed = each["loss"], each["wrong"], case.seed
        middle, top = np.median(loss, 1), loss.max(1)
        spread = np.subtract(*np.percentile(loss, [75, 25], axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = [median(np.where(middle > 0, part / middle, np.nan), seed=seed) for part in (spread, top)]
        standing = _standing(wrong)
        counts = (1, self._counts[-2] if len(self._counts) > 1 else 1, self.num)
        return (
            net.name,
            median(middle, seed=seed),
            float(top.max()),
            *relative,
            *(median(each[key], seed=seed) for key in ("angle", "middle", "random")),
            *(share(standing[:, count - 1], confidence=case.confidence) for count in counts),
            share(wrong.any(1) & ~wrong.all(1), confidence=case.confidence),
        )

    def _said(self, case: Case, name: str, wrong: np.ndarray, standing: np.ndarray) -> list[str]:
        one, half, last = (int(standing[:, count - 1].sum()) for count in (1, max(1, self.num // 2), self.num))
        fragile = int((wrong.any(1) & ~wrong.all(1)).sum())
        found = [
            f"{name}: after one search {one} of {case.n} images are right, after {self.num} {last}; on {fragile} of them "
            "some searches succeed and others do not."
        ]
        if half > last:
            found.append(
                f"{name}: the second half of the restarts still broke {half - last} images: it has not converged."
            )
        return found


def _losses(found: Found, nets: list[str]) -> alt.Chart:
    first = found.arrays[f"{nets[0]}/loss"]
    spread = np.argsort(np.median(first, 1))
    places = spread[np.linspace(0, len(spread) - 1, min(SHOWN, len(spread))).round().astype(int)]
    rows = [
        {"net": name, "image": f"image {found.arrays[f'{name}/ids'][place]}", "loss": max(float(value), LEAST_LOSS)}
        for name in nets
        for place in places
        for value in found.arrays[f"{name}/loss"][place]
    ]
    colour = alt.Color("net:N").scale(domain=nets, range=list(COLOURS[: len(nets)])).legend(None)
    base = alt.Chart(table(rows)).encode(
        x=alt.X("loss:Q")
        .title("final loss (cross-entropy)")
        .scale(type="log")
        .axis(grid=True, format="~g", tickCount=6),
        y=alt.Y("net:N", sort=nets).title(None).axis(ticks=False, domain=False, labelLimit=140),
        color=colour,
    )
    dots = base.mark_tick(thickness=1.6, size=14, opacity=0.55)
    head = alt.Header(title=None, labelAngle=0, labelAlign="left", labelColor=INK, labelFontSize=12)
    return styled(
        dots.properties(width=520, height=18 * len(nets)).facet(row=alt.Row("image:N", header=head), spacing=8)
    )


def _standing(wrong: np.ndarray) -> np.ndarray:
    """Whether an image is still right after so many searches, (n, num)."""
    return ~np.logical_or.accumulate(wrong, 1)
