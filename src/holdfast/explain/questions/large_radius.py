"""Large radii: what does a net turn an image into, and does that look like the other class?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.inner import worst
from holdfast.attacks.fmn import FMN
from holdfast.attacks.options import at_least_one
from holdfast.attacks.pgd import PGD
from holdfast.explain.case import NORMS, Case, Net
from holdfast.explain.compare import interval, none_for_nan, number, share
from holdfast.explain.found import Distance, Figure, Found, Right
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.judges import Judge, answers, neighbours, robust_net
from holdfast.explain.questions.large_radius_figures import figures
from holdfast.explain.questions.large_radius_said import caveats, distances, sentences, tables
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick, register
from holdfast.foundation.stats import Interval
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

SETS: dict[str, Callable[[float], Threat]] = {"l2": L2, "linf": Linf}
GREY = 0.5
"""The largest Linf radius: within it every image can be turned grey, and any class is in reach of any image."""
FIT = 0.5
"""The known images judge if they surely name more than that share of the clean images rightly."""
POINTS, SHOWN, SIDE = 21, 2, 96
"""Points of an interpolation; images whose film is drawn; their largest side in pixels."""


@register
@dataclass(frozen=True, kw_only=True)
class LargeRadius(Probe):
    """What images become in balls far larger than usual, and whether a judge sees the new class, too.

    Searches in balls far larger than usual: what images become, where on the way there the class changes, and whether a
    judge that is none of the nets sees the new class, too.

    Source: Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), section 3.2. Departures: the radii are
    multiples of the median distance of the most robust net's nearest misclassified points, of less where Linf ones would
    exceed 0.5; a judge is asked, never another standard net, which confirms whatever transfers.

    Args:
        norms: ``l2``, ``linf``; images are interpolated in the first.
        multiples: the radii, in units of that median distance; sentences speak of the middle one, images are interpolated to
            the last.
        steps: of the ascent from the image itself, of 2.5 radii over ``steps``.
        search: steps of the search for the nearest misclassified point (FMN).
        loss: what rises (see `holdfast.losses`).
        targeted: whether all nets search for the class that the model finds second most likely, which reads more clearly.
        neighbours: how many of the nearest known images vote.
        judge: the name of a twin that judges in their place; it must be robust itself, which is measured.
    """

    question: ClassVar[str] = "What does a large perturbation turn an image into, and is it really the other class?"

    images: int = 40
    norms: tuple[str, ...] = ("l2", "linf")
    multiples: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    steps: int = 40
    search: int = 50
    loss: str = "ce"
    targeted: bool = False
    neighbours: int = 5
    judge: str | None = None

    def __post_init__(self) -> None:
        for name in self.norms:
            pick("norm", name, SETS)
        for name in ("steps", "search", "neighbours"):
            at_least_one(name, getattr(self, name))
        losses.named(self.loss)
        if not self.norms or len(set(self.norms)) < len(self.norms):
            raise BadValue(f"norms are {list(self.norms)}", hint="give l2, linf or both")
        if not self.multiples or list(self.multiples) != sorted(set(self.multiples)) or self.multiples[0] <= 0:
            raise BadValue(
                f"multiples are {list(self.multiples)}", hint="give positive numbers that grow, as [1, 2, 4]"
            )

    def effort(self, case: Case, n: int) -> Effort:
        searches = n * len(case.nets) * len(self.norms)
        gradients = searches * (self.search + self.steps * len(self.multiples))
        return Effort(gradients + searches * 2 * len(self.multiples) + n * len(case.nets) * (POINTS + 1), gradients)

    def ask(self, case: Case, step: Step) -> Found:
        if self.judge is not None and self.judge not in (net.name for net in case.trained[1:]):
            raise BadValue(f"the judge {self.judge!r} is no twin", hint="name one of those given with --against")
        y = case.batch(case.nets[0]).y.cpu()
        arrays: dict[str, Any] = {"y": y.numpy(), "ids": np.array(case.source.ids)}
        breaches, nets, ranking = [], [], torch.zeros(0)
        for net in case.nets:
            logits = net.logits(case.batch(net).x).cpu().double()
            ranking = logits if net is case.nets[0] else ranking
            arrays |= {
                f"{net.name}/clean": logits.argmax(1).numpy(),
                f"{net.name}/right": (logits.argmax(1) == y).numpy(),
            }
            fault = _fault(net.name, logits)
            breaches += [fault] if fault else []
            nets += [] if fault else [net]
        wanted = torch.full_like(y, -1)
        if self.targeted:
            wanted = ranking.scatter(1, y[:, None], -torch.inf).argmax(1)
            arrays["target"] = wanted.numpy()
        searches = [(net, norm) for net in nets for norm in self.norms]
        for place, (net, norm) in enumerate(searches):
            step("nearest misclassified points", place, len(searches))
            arrays[f"{net.name}/{norm}/distance"] = self._nearest(case, net, norm)
        trained = [net.name for net in case.trained if net in nets]
        for norm in self.norms:
            arrays[f"radii/{norm}"] = radii = self._radii(arrays, trained, norm, case.source.shape)
            if not len(radii):
                nothing = f"No trained net has a boundary in {NORMS[norm]} that was found: there is nothing to show."
                return Found((), (nothing,), breaches=tuple(breaches))
        judge, refused = self._judge(case, arrays, trained)
        x = case.batch(case.nets[0]).x
        arrays["shown"] = _shown([arrays[f"{name}/right"] for name in trained], len(y))
        arrays["images"] = _thumbs(x[arrays["shown"]])
        for place, (net, norm) in enumerate(searches):
            step("ascents", place, len(searches))
            arrays |= self._climbed(case, net, norm, arrays, wanted, judge)
        answer = Found(
            (),
            (),
            breaches=tuple(breaches),
            distances=tuple(self._distances(net, norm, arrays) for net, norm in searches),
            rights=() if self.targeted else tuple(each for found in searches for each in self._rights(*found, arrays)),
            of_images={net.name: {"switch": none_for_nan(arrays[f"{net.name}/switch"])} for net in nets},
            arrays=arrays,
            words={
                "nets": [net.name for net in nets],
                "trained": trained,
                "norms": list(self.norms),
                "classes": list(case.source.class_names),
                "judge": judge.words if judge else "",
                "judges rightly": interval(_named_rightly(case, judge), percent=True) if judge else "",
                "steps": self.steps,
                "loss": self.loss,
                "seed": case.seed,
                "confidence": case.confidence,
            },
        )
        doubts = (*caveats(answer), *refused)
        return dataclasses.replace(answer, tables=tables(answer), sentences=sentences(answer), caveats=doubts)

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return figures(found) if found.words else ()

    def _nearest(self, case: Case, net: Net, norm: str) -> np.ndarray:
        """The distance of the nearest misclassified point found, (n,): 0 where the image itself is one, NaN where none."""
        x, y, ids = case.batch(net)
        whole = SETS[norm](_widest(norm, case.source.shape))
        found = FMN(steps=self.search)(net.model.module, x, y, threat=whole, seed=case.seed, ids=ids)
        return torch.where(found.fooled, found.distance, torch.nan).double().cpu().numpy()

    def _radii(self, arrays: dict[str, Any], trained: Sequence[str], norm: str, shape: Sequence[int]) -> np.ndarray:
        """The multiples of the median distance of the most robust net, or of less where the last would be too large; none
        where no distance is known."""
        unit = max((_middle(arrays, name, norm) for name in trained), default=0.0)
        most = GREY if norm == "linf" else _widest(norm, shape)
        return np.array([min(unit, most / self.multiples[-1]) * each for each in self.multiples if unit > 0])

    def _judge(self, case: Case, arrays: dict[str, Any], trained: Sequence[str]) -> tuple[Judge | None, list[str]]:
        """Who judges, if anybody is fit to; and why nobody does, or not who was named."""
        norm, refused = self.norms[0], []
        for net in case.trained:
            if net.name == self.judge:
                own = _middle(arrays, net.name, norm) if net.name in trained else 0.0
                best = max(_middle(arrays, name, norm) for name in trained)
                if own >= best / 2:
                    return robust_net(net), []
                refused.append(
                    f"{net.name} was not asked to judge: its median distance in {NORMS[norm]}, {number(own)}, is less than "
                    f"half of the most robust net's, {number(best)}; what a fragile net confirms is transfer, not meaning."
                )
        judge = neighbours(case, self.neighbours)
        if judge is None:
            return None, [*refused, "Nobody judged: there are no known images (--train)."]
        clean = _named_rightly(case, judge)
        if clean.low >= FIT:
            return judge, refused
        rightly = f"{interval(clean, percent=True)} of the clean images rightly, not surely more than half"
        return None, [*refused, f"Nobody judged: {judge.words} name {rightly}."]

    def _climbed(
        self, case: Case, net: Net, norm: str, arrays: dict[str, Any], wanted: Tensor, judge: Judge | None
    ) -> dict[str, Any]:
        """What the net, and the judge, say at the ends of the ascents and at noise, (n, radii) each, and the pictures."""
        batch, shown, attack = case.batch(net), arrays["shown"], PGD(steps=self.steps, start="clean", loss=self.loss)
        says = judge.says if judge and judge.net != net.name else None
        told: dict[str, list[Tensor]] = {}
        strips, end, nearest = [], batch.x, arrays[f"{net.name}/{norm}/distance"]
        for radius in arrays[f"radii/{norm}"]:
            rows = dataclasses.replace(
                case.rows(batch, threat=SETS[norm](float(radius))), target=wanted.to(batch.y.device)
            )
            end = rows.threat.project(batch.x, worst(attack, net.model, rows))
            draw = keys.normal(keys.fold(rows.key, keys.number("noise")), batch.x.shape[1:], dtype=batch.x.dtype)
            # From far outside, so that the noise ends on the rim although the box takes a part of it away.
            far = batch.x + batch.x[0].numel() * rows.threat.steepest(draw)
            noise = rows.threat.project(batch.x, far)
            sure = net.logits(end).softmax(1).max(1)
            seen = {"class": sure.indices, "probability": sure.values.double(), "noise": answers(net, noise)}
            seen |= {"judged": says(end), "judged noise": says(noise)} if says else {}
            for key, each in seen.items():
                told.setdefault(key, []).append(each.cpu())
            away = rows.threat.distance(batch.x, end).where(sure.indices != batch.y, torch.nan)
            nearest = np.fmin(nearest, away.double().cpu().numpy())
            strips.append(_thumbs(end[shown]))
        found: dict[str, Any] = {f"{net.name}/{norm}/{key}": torch.stack(each, 1).numpy() for key, each in told.items()}
        found |= {f"{net.name}/{norm}/strip": np.stack(strips, 1), f"{net.name}/{norm}/distance": nearest}
        return found | (_interpolated(net, batch.x, batch.y, end) if norm == self.norms[0] else {})

    def _distances(self, net: Net, norm: str, arrays: dict[str, Any]) -> Distance:
        values = none_for_nan(arrays[f"{net.name}/{norm}/distance"])
        by, ids = f"FMN-{self.search}, PGD-{self.steps}", tuple(arrays["ids"].tolist())
        return Distance(net.name, norm, "attack", by, ids, values)  # pyrefly: ignore[bad-argument-type]

    def _rights(self, net: Net, norm: str, arrays: dict[str, Any]) -> list[Right]:
        """Which images stand at every radius up to each one; and which ones noise on its rim leaves right."""
        ids, clean, found = tuple(arrays["ids"].tolist()), arrays[f"{net.name}/right"], []
        stands = clean.copy()
        for place, radius in enumerate(arrays[f"radii/{norm}"].tolist()):
            attacked, noisy = (
                arrays[f"{net.name}/{norm}/{key}"][:, place] == arrays["y"] for key in ("class", "noise")
            )
            stands = stands & attacked
            for how, by, right in (
                ("white box", f"PGD-{self.steps} from the image", stands),
                ("noise", f"noise on the rim at {number(radius)}", clean & noisy),
            ):
                found.append(Right(net.name, norm, how, by, radius, ids, tuple(right.tolist())))  # pyrefly: ignore
        return found


def _named_rightly(case: Case, judge: Judge) -> Interval:
    """The share of the clean images that the judge gives their true class."""
    batch = case.batch(case.nets[0])
    return share((judge.says(batch.x) == batch.y.cpu()).numpy(), confidence=case.confidence)


def _fault(name: str, logits: Tensor) -> str:
    """What forbids to search a net; empty where nothing does."""
    broken = int((~logits.isfinite().all(1)).sum())
    if broken:
        return f"{name}: its logits are not finite on {broken} of {len(logits)} images"
    if len(logits) > 1 and bool((logits == logits[:1]).all()):
        return f"{name}: its logits are the same for all {len(logits)} images: it is constant and has no boundary"
    return ""


def _widest(norm: str, shape: Sequence[int]) -> float:
    """How far two images can be apart."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(shape))


def _middle(arrays: dict[str, Any], name: str, norm: str) -> float:
    """The median distance of the images that a net gets right; 0 where none is known."""
    found = distances(arrays, name, norm)
    return float(np.nanmedian(found)) if np.isfinite(found).any() else 0.0


def _shown(rights: Sequence[np.ndarray], n: int) -> np.ndarray:
    """The places of the first images that all trained nets get right, then of others."""
    return np.argsort(~np.logical_and.reduce(rights), kind="stable")[: min(SHOWN, n)]


def _thumbs(x: Tensor) -> np.ndarray:
    """Images as bytes; of large ones every so many pixels."""
    every = -(-max(x.shape[2:]) // SIDE)
    return (x[:, :, ::every, ::every] * 255).round().to(torch.uint8).cpu().numpy()


def _interpolated(net: Net, x: Tensor, y: Tensor, end: Tensor) -> dict[str, Any]:
    """On the straight way from the images to the ends: probabilities of the true class, of the one at the end where that is
    another, and of all others together, (n, points, 3); and of the images that are right at first, the share of the way at
    which the class first changes and how often it does, (n,), NaN elsewhere."""
    ways = np.linspace(0, 1, POINTS)
    seen = torch.stack([net.logits(x + way * (end - x)).softmax(1).double().cpu() for way in ways.tolist()], 1).numpy()
    classes, labels = seen.argmax(2), y.cpu().numpy()
    true, last = (np.take_along_axis(seen, each[:, None, None], 2)[..., 0] for each in (labels, classes[:, -1]))
    last = np.where((classes[:, -1] == labels)[:, None], 0.0, last)
    right, wrong = classes[:, 0] == labels, classes != labels[:, None]
    turns = (classes[:, 1:] != classes[:, :-1]).sum(1)
    return {
        f"{net.name}/along": np.stack([true, last, (1 - true - last).clip(0)], 2).astype(np.float32),
        f"{net.name}/surest": seen[:, 0].max(1),
        f"{net.name}/switch": np.where(right & wrong.any(1), ways[wrong.argmax(1)], np.nan),
        f"{net.name}/switches": np.where(right, turns, np.nan),
    }
