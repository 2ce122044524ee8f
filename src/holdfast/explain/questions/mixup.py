"""Mixup: what mixing attacked images with known ones would repair or reveal, by the theory of mixup inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import altair as alt
import numpy as np

from holdfast.ascent.inner import worst
from holdfast.attacks.options import at_least_one
from holdfast.attacks.pgd import PGD
from holdfast.audit.defended.options import pool_from
from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.case import Case
from holdfast.explain.compare import interval
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.slices import faults
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.foundation.stats import Interval
from holdfast.probes.mixup_theory import GRID, Curve, Mixing, MixupTheory, mixup_theory
from holdfast.report.charts import COLOURS, INK, styled, table

PARTNERS = {"pl": "MI-PL, partners of the predicted class", "ol": "MI-OL, partners of the others"}
GAPS = {
    "true class, published": ("published y", 0),
    "predicted, published": ("published yhat", 1),
    "true class, paired": ("paired y", 5),
    "predicted, paired": ("paired yhat", 4),
    "true class, threshold": ("threshold y", 0),
    "predicted, threshold": ("threshold yhat", 1),
}
"""The lines of the panel of gaps: the array of each, and the place of its colour."""
SIDE = 215
"""Pixels: the width of a panel."""


@register
@dataclass(frozen=True, kw_only=True)
class Mixup(Probe):
    """The theory of mixup inference on any net: figure 2 of Pang, Xu and Zhu.

    Figure 2 of the theory of mixup inference on any net: the probabilities of the true class y and of the predicted class
    yhat when attacked images are mixed with known ones, whether they move as repair needs, by how much more the confidence
    of attacked images falls than that of clean ones, and what is repaired at last.

    Source: Pang, Xu and Zhu, "Mixup inference: better exploiting mixup to defend adversarial attacks" (ICLR 2020), section 3
    and figure 2; the quantities are those of `holdfast.probes.mixup_theory`. Departures: partners are known images and none
    is under test; the gaps of G are also shown paired; intervals are over images.

    Args:
        per_class: known images of each class that are partners.
        lam: the image's shares in a mixture, in [0, 1].
        num_draws: mixtures of each image.
        steps: of PGD, whose last points are the attacked images.
    """

    question: ClassVar[str] = "Would mixing attacked images with known ones repair them, or reveal them?"

    images: int = 60
    per_class: int = 100
    lam: tuple[float, ...] = GRID
    num_draws: int = 30
    steps: int = 10

    def __post_init__(self) -> None:
        for name in ("per_class", "num_draws", "steps"):
            at_least_one(name, getattr(self, name))
        if not self.lam or not all(0 <= each <= 1 for each in self.lam):
            raise BadValue(f"lam is {self.lam}; it is a list of shares", hint="for example lam=[0, 0.25, 0.5, 0.75, 1]")
        object.__setattr__(self, "lam", tuple(sorted(set(self.lam))))

    def refuses(self, case: Case) -> str:
        return "" if case.known is not None else "images are mixed with known ones; give --train with labelled images"

    def effort(self, case: Case, n: int) -> Effort:
        gradients = n * len(case.nets) * self.steps
        mixtures = n * len(case.trained) * 6 * self.num_draws * len(self.lam)  # if the attack breaks all
        return Effort(gradients + mixtures, gradients)

    def ask(self, case: Case, step: Step) -> Found:
        if case.known is None:
            raise BadValue("there are no known images to mix with", hint="give --train with labelled images")
        partners = pool_from(case.known, per_class=self.per_class, seed=case.seed)
        partners.check_apart(case.batch(case.nets[0]).x.cpu())
        broken, seen = faults(case), {}
        caveats = [f"{name} is left out: {why}." for name, why in broken.items()]
        for place, net in enumerate(case.nets):
            step(f"mixing for {net.name}", place, len(case.nets))
            if net.name in broken:
                continue
            batch = case.batch(net)
            x = case.threat.project(batch.x, worst(PGD(steps=self.steps), net.model, case.rows(batch)))
            right, held = (net.logits(each).argmax(1) == batch.y for each in (batch.x, x))
            if not bool((right & ~held).any()):
                caveats.append(
                    f"{net.name} is left out: none of {case.n} images is right when clean and wrong when attacked."
                )
                continue
            seen[net.name] = mixup_theory(
                net.model.module,
                batch.x,
                x,
                batch.y,
                partners,
                lam=self.lam,
                num_draws=self.num_draws,
                seed=case.seed,
                confidence=case.confidence,
            )
        caveats += [
            "RIC is a direction, no recovery: F_y rises and F_yhat falls on average, whatever the answer is in the end.",
            "Every net is asked about the images that the attack breaks on it: these are not the same.",
            "The attack does not know of the mixing; holdfast audit --defence mixup_inference measures one that does.",
        ]
        about = f"PGD-{self.steps} within {case.within}; {self.num_draws} mixtures of each with {partners.source}"
        trained = [net.name for net in case.trained]
        return Found(
            tuple(_table(seen, mode, about) for mode in PARTNERS) if seen else (),
            tuple(_said({name: each for name, each in seen.items() if name in trained})),
            caveats=tuple(caveats),
            breaches=tuple(f"{name}: {why}" for name, why in broken.items() if name in trained),
            arrays={
                "lam": np.array(self.lam),
                **{
                    f"{name}/{mode}/{key}": values
                    for name, theory in seen.items()
                    for mode in PARTNERS
                    for key, values in _arrays(getattr(theory, mode)).items()
                },
            },
            words={"nets": {name: each.n for name, each in seen.items()}},
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return tuple(
            Figure(
                f"mixing_{place}",
                f"{name}: probabilities F of {n} images that the attack broke, and the gaps of G, as published and paired; "
                "dashed, what the gaps must exceed. Bands are intervals over images.",
                _figure(found.arrays, name, tuple(found.words["nets"])),
            )
            for place, (name, n) in enumerate(found.words["nets"].items(), start=1)
        )


def _table(seen: Mapping[str, MixupTheory], mode: str, about: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, theory in seen.items():
        mixing: Mixing = getattr(theory, mode)
        curves = (mixing.clean, mixing.y, mixing.yhat, mixing.delta_y, mixing.delta_yhat)
        for place, lam in enumerate(theory.lam):
            holds = "holds" if mixing.improves[place] else "fails"
            plain = (round(each[place].value, 6) + 0.0 for each in curves)  # no -0
            gap, margin = _estimate(mixing.detection_gap[place]), _estimate(mixing.margin[place])
            # At 1 nothing moves but the rounding.
            moves: tuple[Cell, Cell] = ("", 0.0) if lam == 1 else (holds, gap)
            rows.append((name, lam, *plain, *moves, margin, mixing.recovered[place]))
    counts = ", ".join(
        f"{name} {theory.n} (F_y is {theory.clean.value:.2f} when clean, {theory.y.value:.2f} when attacked, and F_yhat "
        f"{theory.yhat.value:.2f})"
        for name, theory in seen.items()
    )
    caption = (
        f"{PARTNERS[mode]}; means over the images right when clean and wrong when attacked: {counts}. {about}. The "
        "intervals of the probabilities are drawn, and stand in the arrays."
    )
    columns = (
        *("net", "lam", "F_y clean", "F_y", "F_yhat", "change of F_y", "of F_yhat", "RIC"),
        *("detection gap", "margin", "recovered"),
    )
    return Table(caption, tuple(Column(each, digits=2) for each in columns), tuple(rows))


def _said(seen: Mapping[str, MixupTheory]) -> Iterator[str]:
    """Of each trained net, and of the first beside the others."""
    best: dict[str, int] = {}
    for name, theory in seen.items():
        for mode, partners in PARTNERS.items():
            mixing: Mixing = getattr(theory, mode)
            places = range(len(theory.lam))
            top = max(places, key=lambda at: mixing.recovered[at].value)
            gap = max(places, key=lambda at: mixing.detection_gap[at].low * (theory.lam[at] < 1))
            best.setdefault(mode, top)
            moves = [f"{lam:g}" for lam, holds in zip(theory.lam, mixing.improves) if holds and lam < 1]
            told = (
                f"the confidence of attacked images falls by {interval(mixing.detection_gap[gap])} more than that of clean "
                f"ones at lam {theory.lam[gap]:g}"
                if mixing.detection_gap[gap].low > 0 and theory.lam[gap] < 1
                else "at no lam the confidence of attacked images is seen to fall by more than that of clean ones"
            )
            yield (
                f"{name}, {partners}: mixing repairs at most {interval(mixing.recovered[top], percent=True)} of "
                f"{theory.n} images, at lam {theory.lam[top]:g}; the condition RIC holds at "
                f"{'lam ' + ', '.join(moves) if moves else 'no lam'}; {told}."
            )
    for other in list(seen)[1:]:
        first = next(iter(seen))
        for mode, at in best.items():
            ours, theirs = (getattr(seen[name], mode).recovered[at] for name in (first, other))
            word = "more" if ours.low > theirs.high else "less" if ours.high < theirs.low else "no difference is seen"
            yield (
                f"At lam {seen[first].lam[at]:g} {PARTNERS[mode].partition(',')[0]} repairs {interval(ours, percent=True)} "
                f"of {first}'s images and {interval(theirs, percent=True)} of {other}'s: {word}."
            )


def _estimate(found: Interval) -> Estimate:
    return Estimate(found.value, found.n, found.low, found.high)


def _arrays(mixing: Mixing) -> dict[str, np.ndarray]:
    """Every curve as (3, G): value, low, high for each lam; thresholds and truths as (G,)."""
    curves: dict[str, Curve] = {
        "clean": mixing.clean,
        "y": mixing.y,
        "yhat": mixing.yhat,
        "delta clean": mixing.delta_clean,
        "delta y": mixing.delta_y,
        "delta yhat": mixing.delta_yhat,
        "improved": mixing.improved,
        "detection gap": mixing.detection_gap,
        "published y": mixing.published.y,
        "published yhat": mixing.published.yhat,
        "paired y": mixing.paired.y,
        "paired yhat": mixing.paired.yhat,
        "margin": mixing.margin,
        "recovered": mixing.recovered,
    }
    plain = {"threshold y": mixing.threshold_y, "threshold yhat": mixing.threshold_yhat, "improves": mixing.improves}
    return {
        **{key: np.array([(each.value, each.low, each.high) for each in curve]).T for key, curve in curves.items()},
        **{key: np.array(values) for key, values in plain.items()},
    }


def _figure(arrays: Mapping[str, np.ndarray], net: str, nets: Sequence[str]) -> Any:
    """Three panels for each kind of partners: F_y, F_yhat, and the gaps of G on one scale for all nets."""
    gaps = np.concatenate(
        [arrays[f"{each}/{mode}/{key}"].ravel() for each in nets for mode in PARTNERS for key, _ in GAPS.values()]
    )
    gaps = gaps[np.isfinite(gaps)]
    spread = (float(np.floor(gaps.min() * 5) / 5), float(np.ceil(gaps.max() * 5) / 5))
    modes = []
    for mode, name in PARTNERS.items():
        last = mode == "ol"  # both rows have the same lines
        panels = [
            _panel(arrays, f"{net}/{mode}", title, lines, domain, legend=last)
            for title, lines, domain in (
                ("F of the true class", {"clean": ("clean", 0), "adversarial": ("y", 1)}, (0, 1)),
                ("F of the predicted class", {"clean": ("clean", 0), "adversarial": ("yhat", 1)}, (0, 1)),
                ("Gaps of G; dashed, what they must exceed", GAPS, spread),
            )
        ]
        title = alt.Title(name, anchor="start", fontSize=14, color=INK, offset=8)
        modes.append(alt.hconcat(*panels, spacing=26, title=title).resolve_scale(color="independent"))
    return styled(alt.vconcat(*modes, spacing=20).resolve_scale(color="independent"))


def _panel(
    arrays: Mapping[str, np.ndarray],
    of: str,
    title: str,
    lines: Mapping[str, tuple[str, int]],
    domain: Sequence[float],
    *,
    legend: bool,
) -> Any:
    found = []
    for name, (key, _) in lines.items():
        values = arrays[f"{of}/{key}"]
        for place, lam in enumerate(arrays["lam"]):
            row: dict[str, Any] = {"line": name, "lam": float(lam), "dashed": values.ndim == 1}
            if values.ndim == 1:
                row["value"] = float(values[place])
            else:
                value, low, high = (float(each) for each in values[:, place])
                row |= {"value": value} | ({"low": low, "high": high} if np.isfinite([low, high]).all() else {})
            found.append(row)
    solid = [name for name, (key, _) in lines.items() if arrays[f"{of}/{key}"].ndim == 2]
    key = alt.Legend(title=None, orient="bottom", columns=2, values=solid, symbolOpacity=1, symbolType="stroke")
    colours = [COLOURS[place] for _, place in lines.values()]
    colour = alt.Color("line:N").scale(domain=list(lines), range=colours).legend(key if legend else None)
    x = alt.X("lam:Q").title("λ" if legend else None).axis(grid=False, tickCount=6, format="~g").scale(nice=False)
    y = alt.Y("value:Q", scale=alt.Scale(domain=list(domain), nice=False)).title(None).axis(tickCount=5)
    base = alt.Chart(table(found)).encode(x=x, color=colour)
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q")
    drawn = [base.transform_filter("!datum.dashed").mark_line(strokeWidth=2).encode(y=y)]
    if len(solid) < len(lines):
        dashed = base.transform_filter("datum.dashed")
        drawn.append(dashed.mark_line(strokeWidth=1.6, strokeDash=[5, 4]).encode(y=y))
    head = alt.Title(title, anchor="start", fontSize=12, fontWeight="normal", color=INK, offset=6)
    return alt.layer(band, *drawn).properties(width=SIDE, height=190, title=head)
