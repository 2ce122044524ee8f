"""Stability: what do the layers' norms certify, and how far is that from what an attack finds?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from holdfast.attacks.fmn import FMN
from holdfast.attacks.options import at_least_one
from holdfast.experiments.outcome import Cell, Column, Estimate
from holdfast.explain.case import NORMS, Case, Net
from holdfast.explain.compare import difference, interval, median, none_for_nan, number
from holdfast.explain.found import Distance, Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.lipschitz_figures import figures
from holdfast.foundation.errors import BadModel
from holdfast.foundation.registry import register
from holdfast.probes.lipschitz import Lipschitz, lipschitz
from holdfast.threats.l2 import L2
from holdfast.threats.threat import Threat

BY = "products of layer norms"
KNOWN = ("linf", "l2")
"""The norms in which layers have bounds."""


@dataclass(frozen=True)
class _Seen:
    """Of one net in one norm: its bounds, and the distance of the nearest wrong answer found, NaN where there was none."""

    bound: Lipschitz
    attack: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which images are classified rightly; the others need no attack."""
        return ~(self.attack == 0)


@register
@dataclass(frozen=True, kw_only=True)
class Stability(Probe):
    """What the norms of a net's layers certify for each image, beside the nearest wrong answer that an attack finds.

    Norms are certified from above and attained from below; their product bounds the slopes, of which the steepest are looked
    for. In L2, and in the norm of the threat; slopes within its radius.

    Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 4.3; the certificate of pairs of
    classes: Tsuzuku, Sato and Sugiyama (NeurIPS 2018); see `holdfast.probes.lipschitz` and `holdfast.attacks.fmn`.

    Args:
        steps: of the search for slopes, per image.
        attack_steps: of the attack, per image.
    """

    question: ClassVar[str] = "How far can a change of the image move the logits, and what does that certify?"

    images: int = 50
    steps: int = 30
    attack_steps: int = 60

    def __post_init__(self) -> None:
        for name in ("steps", "attack_steps"):
            at_least_one(name, getattr(self, name))

    def effort(self, case: Case, n: int) -> Effort:
        each = n * len(case.nets) * len(_threats(case))
        return Effort(each * (self.steps + self.attack_steps + 4), each * (self.steps + self.attack_steps))

    def ask(self, case: Case, step: Step) -> Found:
        threats = _threats(case)
        if not threats:
            why = f"not available: layers have bounds in Linf and L2, and the threat is {NORMS[case.threat.name]}"
            return Found((Table(why, (Column("net"),), tuple((net.name,) for net in case.nets)),), (f"{why}.",))
        seen: dict[str, dict[str, _Seen]] = {}
        refused: dict[str, str] = {}
        for done, net in enumerate(case.nets):
            for threat in threats:
                step(f"stability in {NORMS[threat.name]}", done, len(case.nets))
                found = self._seen(case, net, threat)
                if isinstance(found, str):
                    refused[net.name] = found
                    break
                seen.setdefault(net.name, {})[threat.name] = found
        seen = {name: each for name, each in seen.items() if name not in refused}
        distances, of_images = [], {}
        ids = tuple(int(one) for one in case.source.ids)
        for name, norms in seen.items():
            for norm, each in norms.items():
                distances += [
                    Distance(name, norm, "certified", BY, ids, none_for_nan(each.bound.radii)),  # pyrefly: ignore
                    Distance(name, norm, "attack", f"FMN-{self.attack_steps}", ids, none_for_nan(each.attack)),  # pyrefly: ignore
                ]
                of_images.setdefault(name, {})[f"steepest slope, {NORMS[norm]}"] = none_for_nan(each.bound.slopes)
        return Found(
            (*(_table(case, seen, refused, threat) for threat in threats), _layers(seen, refused)),
            tuple(_said(case, seen, refused, threats)),
            caveats=(
                "A bound is no score of robustness: it may rank a net that was trained to be robust behind a standard one.",
                "Certificates hold for exact arithmetic; rounding in float32 may move a boundary by far less.",
            ),
            breaches=tuple(_breaches(seen)),
            distances=tuple(distances),
            of_images=of_images,
            arrays={
                f"{name}/{key}": value
                for name, norms in seen.items()
                for key, value in {
                    "lower": np.array([layer.lower for layer in norms["l2"].bound.layers]),
                    "upper": np.array([layer.upper for layer in norms["l2"].bound.layers]),
                    "radii": norms["l2"].bound.radii,
                    "attack": norms["l2"].attack,
                }.items()
            },
            words={
                "nets": list(seen),
                "layers": {name: [layer.name for layer in each["l2"].bound.layers] for name, each in seen.items()},
            },
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return figures(found)

    def _seen(self, case: Case, net: Net, threat: Threat) -> _Seen | str:
        """One net in one norm; or, in words, why not."""
        module, batch = net.model.module, case.batch(net)
        if not isinstance(module, nn.Module):
            return "refused: a plain function has no layers"
        anywhere = threat.resized(_diameter(threat.name, net.model.shape))
        try:
            bound = lipschitz(
                module, batch.x, batch.y, threat, steps=self.steps, seed=case.seed, confidence=case.confidence
            )
            found = FMN(steps=self.attack_steps)(
                module, batch.x, batch.y, threat=anywhere, seed=case.seed, ids=batch.ids
            )
        except BadModel as error:
            return f"refused: {error.message}"
        return _Seen(bound, found.distance.double().masked_fill(~found.fooled, math.nan).cpu().numpy())


def _threats(case: Case) -> tuple[Threat, ...]:
    """The threat, and the L2 ball of its radius: in L2 both are one. The ball of a Linf threat lies inside that."""
    if case.threat.name not in KNOWN:
        return ()
    return (case.threat,) if case.threat.name == "l2" else (case.threat, L2(case.threat.eps))


def _diameter(norm: str, shape: tuple[int, int, int]) -> float:
    """No two images are further apart."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(shape))


def _breaches(seen: dict[str, dict[str, _Seen]]) -> Iterator[str]:
    for name, norms in seen.items():
        slopes = next(iter(norms.values())).bound.slopes
        if not np.isfinite(slopes).all():
            yield f"{name}: gradients of the margin are not finite"
        elif not slopes.any():
            yield f"{name}: the gradient of the margin is zero on all {len(slopes)} images"


def _table(case: Case, seen: dict[str, dict[str, _Seen]], refused: dict[str, str], threat: Threat) -> Table:
    heads = (
        *("product bound", "bound of pairs", "slope, median", "slope, largest", "bound / slope"),
        *("certified radius", "attack distance", "attack / certified", "certified at radius asked"),
    )
    rows: list[tuple[Cell, ...]] = []
    for net in case.nets:
        if net.name not in seen:
            rows.append((net.name, refused[net.name], *[""] * (len(heads) - 1)))
            continue
        each = seen[net.name][threat.name]
        bound, held = each.bound, each.right & (each.bound.radii > 0)
        rows.append(
            (
                net.name,
                bound.total,
                bound.upper,
                median(bound.slopes, seed=case.seed, confidence=case.confidence),
                bound.lower,
                bound.ratio,
                median(bound.radii[each.right], seed=case.seed, confidence=case.confidence),
                median(each.attack[each.right], seed=case.seed, confidence=case.confidence),
                median(each.attack[held] / bound.radii[held], seed=case.seed, confidence=case.confidence),
                bound.certified,
            )
        )
    one = next(iter(seen.values()), {}).get(threat.name)
    asked = f" {one.bound.useful:.3g}" if one is not None else ""
    caption = (
        f"{case.n} images, {NORMS[threat.name]}; slopes within {threat.eps:.3g}. Medians over images with 95 % bootstrap "
        "intervals; radii and distances over the images classified rightly. Bounds are certified from above, slopes "
        f"from below. Asked for is a radius of{asked or ' eps'}."
    )
    return Table(caption, tuple(Column(head, digits=2) for head in ("net", *heads)), tuple(rows))


def _layers(seen: dict[str, dict[str, _Seen]], refused: dict[str, str]) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, why, *[""] * 4) for name, why in refused.items()]
    for name, norms in seen.items():
        both = zip(norms["l2"].bound.layers, norms.get("linf", norms["l2"]).bound.layers)
        rows += [
            (name, l2.name, l2.kind, l2.lower, l2.upper, linf.upper if "linf" in norms else "not asked")
            for l2, linf in both
        ]
    caption = "The norm of every layer: in L2 attained and certified, in Linf exact."
    columns = ("net", "layer", "kind", "L2 attained", "L2 certified", "Linf")
    return Table(caption, tuple(Column(name, digits=3) for name in columns), tuple(rows))


def _said(
    case: Case, seen: dict[str, dict[str, _Seen]], refused: dict[str, str], threats: tuple[Threat, ...]
) -> Iterator[str]:
    for name, why in refused.items():
        yield f"{name}: {why}."
    for name, norms in seen.items():
        for each in norms.values():
            yield f"{name}: {each.bound.verdict}."
    model = case.nets[0].name
    for twin in (net.name for net in case.trained[1:] if net.name in seen and model in seen):
        for threat in threats:
            yield _compared(case, model, twin, seen[model][threat.name], seen[twin][threat.name], threat.name)


def _compared(case: Case, model: str, twin: str, ours: _Seen, theirs: _Seen, norm: str) -> str:
    """The model over its twin: bound, slopes, radii, attack distances; and whether the last two rank them alike."""
    both = ours.right & theirs.right

    def times(first: np.ndarray, second: np.ndarray) -> Estimate:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = difference(np.log(first), np.log(second), seed=case.seed, confidence=case.confidence)
        return Estimate(math.exp(found.value), found.n, math.exp(found.low), math.exp(found.high))

    bound = ours.bound.total / theirs.bound.total if theirs.bound.total else math.nan
    slope, held, away = (
        times(first, second)
        for first, second in (
            (ours.bound.slopes, theirs.bound.slopes),
            (ours.bound.radii[both], theirs.bound.radii[both]),
            (ours.attack[both], theirs.attack[both]),
        )
    )
    said = (
        f"{NORMS[norm]}: the product bound of {model} is {number(bound)} times that of {twin}, its slopes are "
        f"{interval(slope)} times as steep, its certified radii {interval(held)} times as large, and the nearest wrong "
        f"answer found is {interval(away)} times as far"
    )
    certified, attacked = (1 if each.low > 1 else -1 if each.high < 1 else 0 for each in (held, away))
    if not certified * attacked:
        return f"{said}: {'the certificate' if attacked else 'the attack'} does not tell the two apart."
    alike = "as the attack does" if certified == attacked else "the other way round"
    return f"{said}: the certificate ranks the two {alike}."
