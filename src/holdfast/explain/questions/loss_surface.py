"""Loss surface: how does the loss rise around the images, and around the weights?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.engine import default_slots
from holdfast.attacks.options import at_least_one, positive
from holdfast.experiments.outcome import Column
from holdfast.explain.case import Batch, Case, Net
from holdfast.explain.compare import difference, interval, mean, median, none_for_nan, number, sign
from holdfast.explain.found import Figure, Found, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.slices import (
    ALONG,
    UP,
    adversarial,
    at_random,
    draw_along,
    draw_reliefs,
    faults,
    losses,
    slices,
    tangents,
    told,
)
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import register
from holdfast.losses import ce
from holdfast.probes.linearity import linearity_error
from holdfast.probes.parameter_plane import filter_normalised, over_parameters
from holdfast.probes.plane import across, moved

NEAR = 0.5
"""The radius, in lengths of the filters, within which the loss around the weights is averaged."""
NUMBERS = {
    "here": "loss",
    "there": "loss at u",
    "rise": "rise",
    "predicted": "rise by the gradient",
    "error": "linearity error",
}
BUMP = {"weights": "loss", "near": f"rise within {NEAR:g}"}
Seen = dict[str, np.ndarray]


@register
@dataclass(frozen=True, kw_only=True)
class LossSurface(Probe):
    """The loss along adversarial directions, on slices, and around the weights.

    The loss along the adversarial direction u and on slices with a random one, v; how far it departs from its tangent
    within the threat set; and the loss on a plane of random directions around the weights. Values stop at 0 and 1.

    Sources: Qin et al., "Adversarial robustness through local linearization" (NeurIPS 2019), equation 5, for the linearity
    error; Li et al., "Visualizing the loss landscape of neural nets" (NeurIPS 2018), section 4, for the weights. Departures:
    see `holdfast.probes.linearity` and `holdfast.probes.parameter_plane`.

    Args:
        steps: of the search for u, and of that for the linearity error.
        points: on the line along u, odd.
        reach: how far lines and slices go on each side, in eps.
        grid: points on a side of the slices and of the plane around the weights, odd.
        span: how far that plane goes on each side, in lengths of the filters.
    """

    question: ClassVar[str] = "How steep and how bent is the loss, around the images and around the weights?"

    images: int = 60
    steps: int = 20
    points: int = 41
    reach: float = 2.0
    grid: int = 21
    span: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "points", "grid"):
            at_least_one(name, getattr(self, name))
        for name in ("points", "grid"):
            if (value := getattr(self, name)) < 3 or value % 2 == 0:
                raise BadValue(f"{name} is {value}; it must be odd, at least 3", hint=f"for example {name}=21")
        positive("reach", self.reach)
        positive("span", self.span)

    def effort(self, case: Case, n: int) -> Effort:
        gradients = n * (3 * self.steps + 7)
        return Effort(
            len(case.nets) * (n * (2 * self.grid**2 + self.points + 1) + gradients), len(case.nets) * gradients
        )

    def ask(self, case: Case, step: Step) -> Found:
        broken = faults(case)
        asked = [net for net in case.nets if net.name not in broken]
        seen = {net.name: self._around_images(case, net, step) for net in asked}
        bumps = {net.name: found for net in asked if (found := self._around_weights(case, net, step))}
        breaches = [*told(case, broken)]
        caveats = [
            "The linearity error is what a search found: the true one is as large or larger.",
            *told(case, broken, control=True),
        ]
        for net in case.trained:
            if net in asked and (lost := int(np.isnan(seen[net.name]["error"]).sum())):
                breaches.append(f"{net.name}: the loss is not finite within {case.within} of {lost} of {case.n} images")
        if bumps:
            caveats.append(
                "How flat the loss is around the weights says little about robustness (Yu et al. 2018, arXiv 1810.00144). "
                "The plane is one of many; its intervals are over images alone."
            )
        arrays: dict[str, Any] = {"line": self._line, "slice": self._slice, "plane": self._plane}
        for net in asked:
            arrays |= {f"{net.name}/{key}": seen[net.name][key] for key in ("along", "relief")}
            if net.name in bumps:
                arrays[f"{net.name}/bump"] = bumps[net.name]["surface"]
        return Found(
            tuple(self._tables(case, asked, seen, bumps)),
            tuple(self._said(case, asked, seen, bumps)),
            caveats=tuple(caveats),
            breaches=tuple(breaches),
            of_images={
                name: {
                    "linearity error": none_for_nan(each["error"]),
                    "rise of the loss along u": none_for_nan(each["rise"]),
                }
                for name, each in seen.items()
            },
            arrays=arrays,
            words={"nets": [*seen], "weights": [*bumps], "within": case.within},
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        nets, within = found.words["nets"], found.words["within"]
        if not nets:
            return ()
        figures = [
            Figure(
                "along",
                f"The loss along u: medians over images and the middle half of them; u ends {within} away.",
                draw_along(found),
            ),
            Figure(
                "relief",
                "Medians over images of the loss on slices along u and v; from one white line to the next it doubles.",
                draw_reliefs(found, nets, "relief", found.arrays["slice"], ALONG, UP),
            ),
        ]
        if found.words["weights"]:
            along, up = (f"{which} random direction, in filters" for which in ("first", "second"))
            figures.append(
                Figure(
                    "weights",
                    "The mean loss on clean images around the weights (the cross), in lengths of the filters; from one "
                    "white line to the next it doubles.",
                    draw_reliefs(found, found.words["weights"], "bump", found.arrays["plane"], along, up),
                )
            )
        return tuple(figures)

    @property
    def _line(self) -> np.ndarray:
        return np.linspace(-self.reach, self.reach, self.points)

    @property
    def _slice(self) -> np.ndarray:
        return np.linspace(-self.reach, self.reach, self.grid)

    @property
    def _plane(self) -> np.ndarray:
        return np.linspace(-self.span, self.span, self.grid)

    def _around_images(self, case: Case, net: Net, step: Step) -> Seen:
        """Numbers (n,), losses along u (n, points), and their median over images on the slice (grid, grid)."""
        batch, name = case.batch(net), f"loss of {net.name}"
        total = 3 + len(batch.x)
        step(name, 0, total)
        u = adversarial(case, net, batch, steps=self.steps)
        v = across(at_random(case, batch, 0), u)
        step(name, 1, total)
        start = tangents(net, ce, batch.x, batch.y)
        there = moved(batch.x, u, torch.ones_like(start.value))
        rise = losses(net, there, batch.y) - start.value
        predicted = ((there - batch.x) * start.grad).flatten(1).sum(1)
        inside = case.threat.sample(batch.x, case.rows(batch, keys.number("linearity")).key)
        error = torch.maximum(*(self._bent(case, net, batch, begin) for begin in (there, inside)))
        step(name, 2, total)
        along = [
            losses(net, moved(batch.x, u, torch.full_like(start.value, at)), batch.y) for at in self._line.tolist()
        ]
        surfaces = []
        for place in range(len(batch.x)):
            step(name, 3 + place, total)
            taken = slices(case, net, batch, u, v, [place], self._slice.tolist(), clip=True)
            surfaces.append(taken["loss"][0])
        found = {"here": start.value, "there": start.value + rise, "rise": rise, "predicted": predicted, "error": error}
        return {
            **{key: value.double().cpu().numpy() for key, value in found.items()},
            "along": torch.stack(along, 1).float().cpu().numpy(),
            "relief": np.median(np.stack(surfaces), 0),
        }

    def _bent(self, case: Case, net: Net, batch: Batch, begin: Tensor) -> Tensor:
        parts = zip(*(each.split(default_slots(begin)) for each in (batch.x, batch.y, begin)))
        return torch.cat(
            [linearity_error(net.model, ce, *part, threat=case.threat, steps=self.steps) for part in parts]
        )

    def _around_weights(self, case: Case, net: Net, step: Step) -> Seen:
        """The mean loss around the weights (grid, grid), and of each image the loss and its rise nearby (n,)."""
        module = net.model.module
        if not isinstance(module, nn.Module):
            return {}
        directions = (filter_normalised(module, case.seed), filter_normalised(module, case.seed + 1))
        if not any(bool(each.any()) for each in directions[0].values()):
            return {}
        batch, axis = case.batch(net), self._plane
        each = over_parameters(
            module,
            directions,
            *(axis.tolist(), axis.tolist()),
            lambda moving: _of_module(moving, batch),
            lambda done: step(f"weights of {net.name}", done, self.grid**2),
        )
        loss = each.double().cpu().numpy()
        middle = self.grid // 2
        here = loss[middle, middle]
        near = np.hypot(axis[:, None], axis[None]) <= NEAR
        return {"surface": loss.mean(2).astype(np.float32), "weights": here, "near": loss[near].mean(0) - here}

    def _tables(self, case: Case, asked: list[Net], seen: dict[str, Seen], bumps: dict[str, Seen]) -> list[Table]:
        if not asked:
            return []
        how: dict[str, Any] = {"seed": case.seed, "confidence": case.confidence}
        first, *rest = asked
        rows: list[Any] = [(net.name, *(median(seen[net.name][key], **how) for key in NUMBERS)) for net in asked]
        for net in rest:
            pairs = ((seen[first.name][key], seen[net.name][key]) for key in NUMBERS)
            rows.append((f"{first.name} - {net.name}", *(difference(*pair, **how) for pair in pairs)))
        caption = (
            f"{case.n} images, {case.within}; cross-entropy. Medians, and medians of paired differences, with "
            f"{100 * case.confidence:g} % bootstrap intervals. u: where PGD-{self.steps} on the margin ends. Rise: from the "
            "image to u, and what the gradient at the image makes of it. Linearity error: the largest departure from the "
            f"tangent that searches of {self.steps} steps from u and from a random point found."
        )
        tables = [Table(caption, tuple(map(Column, ("net", *NUMBERS.values()))), tuple(rows))]
        if bumps:
            caption = (
                f"The mean loss of the same clean images, with {100 * case.confidence:g} % bootstrap intervals over them: "
                f"at the weights, and how much higher it is on average within {NEAR:g} of them, in lengths of the filters."
            )
            lines = [(name, *(mean(each[key], **how) for key in BUMP)) for name, each in bumps.items()]
            tables.append(Table(caption, tuple(map(Column, ("net", *BUMP.values()))), tuple(lines)))
        return tables

    def _said(self, case: Case, asked: list[Net], seen: dict[str, Seen], bumps: dict[str, Seen]) -> list[str]:
        how: dict[str, Any] = {"seed": case.seed, "confidence": case.confidence}
        trained, said = [net for net in asked if net.role != "untrained"], []
        for net in trained:
            rise, by, error = (median(seen[net.name][key], **how) for key in ("rise", "predicted", "error"))
            said.append(
                f"{net.name}: towards u the loss rises by {interval(rise)} at the median, {number(by.value)} by its "
                f"gradient at the image; within {case.within} it departs from its tangent by {interval(error)}."
            )
        words = {1: "more than", -1: "less than", 0: "not seen to differ from"}
        for twin in trained[1:] if trained and trained[0] is case.nets[0] else ():
            pair = (seen[net.name]["error"] for net in (trained[0], twin))
            found = difference(*pair, **how)
            verb = {1: "is bent ", -1: "is bent ", 0: "is "}[sign(found)]
            said.append(
                f"The loss of {trained[0].name} {verb}{words[sign(found)]} that of {twin.name}: paired difference of the "
                f"linearity errors {interval(found)}, {found.n} images."
            )
            if {trained[0].name, twin.name} <= set(bumps):
                near = mean(bumps[trained[0].name]["near"] - bumps[twin.name]["near"], **how)
                verb = {1: "rises more than", -1: "rises less than", 0: "is not seen to rise otherwise than"}[
                    sign(near)
                ]
                said.append(
                    f"Around the weights the clean loss of {trained[0].name} {verb} that of {twin.name}: mean paired "
                    f"difference {interval(near)} within {NEAR:g} of the filters' lengths."
                )
        return said


def _of_module(module: nn.Module, batch: Batch) -> Tensor:
    logits = torch.cat([module(part) for part in batch.x.split(default_slots(batch.x))])
    return ce(logits, batch.y, torch.full_like(batch.y, -1))
