"""Can this number be believed? Each check says what it saw, what it means and what to do.

`probe` asks the model, before a run, on a few images; `of_records` reads a run's own records, after it. What the doctor sees
(`holdfast.models.doctor`: randomised output, probabilities, the scale of the logits) belongs to the same list.
Sources: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018), section 3.1; Carlini
et al., "On evaluating adversarial robustness" (2019), section 4; Croce and Hein's AutoAttack, flags 1 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from holdfast import keys, losses
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.state import Rows, State
from holdfast.audit.entry import Escalated, Past
from holdfast.audit.plan import Plan
from holdfast.foundation.errors import BadModel
from holdfast.records.schema import Finding, StageSummary
from holdfast.threats.threat import Threat

IMAGES = 16
"""How many correctly classified images a probe searches."""

STEPS = 12
DRAWS = 4
"""Random directions of each probed image, looked at inside the set and on its rim."""
ARRIVED = 1e-3
"""A step shorter than this share of the radius is rounding."""
SLIGHT, FEW = 0.05, 0.25
"""A search has arrived where a step promises so few of its points more than this share of their rise so far: what is left is
to and fro at the summit, of which next to nothing comes true."""
CURVED, DISHONEST = 0.25, 0.05
"""Shares of the predicted change of the loss that comes true; honest nets have 0.43 to 1.06 (six, at 3 or 4 radii)."""


class Probed(NamedTuple):
    """What the probe saw, and what it cost."""

    findings: tuple[Finding, ...]
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Climbed:
    """A short plain search of every probed image.

    Args:
        values: the margin loss at every point of it, (STEPS + 1, n): positive means fooled.
        honesty: actual over predicted change of the loss, in the median over the last third of its steps; over those before
            where it had arrived by then.
        still: the share of evaluations whose gradient was exactly zero.
        arrived: whether it had after the first third: as in a linear net, whose worst corner a step or two reach.
    """

    values: Tensor
    honesty: float
    still: float
    arrived: bool


def probe(model: Classifier, x: Tensor, y: Tensor, threat: Threat) -> Probed:
    """Searches a few images in plain ways whose outcomes have to agree with one another.

    Args:
        model: the classifier.
        x, y: images (n, C, H, W) and labels (n,); the first `IMAGES` that are classified correctly are used.
        threat: the set of the audit.
    """
    meter = Meter(model)
    with frozen(model), rng_kept(x.device):
        with torch.no_grad():
            right = (model(x).argmax(1) == y).nonzero()[:IMAGES, 0]
        x, y = x[right], y[right]
        if not len(x) or not threat.eps:
            return Probed((), 0, 0)
        try:
            found = _steps(model, x[:1])
            # What follows climbs from image to image: parameters are no images, and a patch is placed, not climbed to.
            if threat.parametric or threat.name == "patch":
                return Probed(tuple(found), 0, 0)
            climbed = _climb(meter, x, y, threat)
            single = _single_step(meter, x, y, threat)
            found += _honest(climbed) + _rising(climbed) + _iterated(climbed, single)
            found += _unbounded(meter, x, y, threat) + _random(meter, climbed, x, y, threat)
        except BadModel:  # no gradient at all: the doctor says it
            return Probed((), meter.forwards, meter.backwards)
    return Probed(tuple(found), meter.forwards, meter.backwards)


def _rows(x: Tensor, y: Tensor, threat: Threat) -> Rows:
    """Untargeted searches that draw nothing."""
    return Rows(x, y, torch.full_like(y, -1), torch.zeros_like(y), threat)


def _size(threat: Threat, step: int, steps: int) -> float:
    """The length of a step: half a cosine from the whole radius to nothing."""
    return threat.stride(1) * (1 + math.cos(math.pi * step / steps)) / 2


def _climb(model: Meter, x: Tensor, y: Tensor, threat: Threat) -> Climbed:
    """Steepest ascent of the margin from the clean image, cosine steps that begin with the radius."""
    rows = _rows(x, y, threat)
    values, shares, still, climbs = [], [], [], []
    at, last, before = x, x, None
    for step in range(STEPS + 1):
        seen = evaluate(model, losses.margin, State.at(rows, at))
        values.append(seen.value)
        still.append((seen.grad == 0).flatten(1).all(1))
        if before is not None:
            predicted = (before.grad * (at - last)).flatten(1).sum(1)
            moved = threat.distance(last, at) > ARRIVED * threat.eps
            shares.append(((seen.value - before.value) / predicted)[moved & (predicted > 0)])
            rise = (before.value - values[0]).clamp(min=0)
            climbs.append(float((moved & (predicted > SLIGHT * rise)).sum()) > FEW * len(x))
        last, before = at, seen
        at = threat.project(x, at + _size(threat, step, STEPS) * threat.steepest(seen.grad))
    late = slice(2 * STEPS // 3, None)
    telling = shares[late] if any(climbs[late]) else [share for share, climb in zip(shares, climbs) if climb] or shares
    known = torch.cat(telling)
    known = known[~known.isnan()]  # of images on which the model fails
    return Climbed(
        values=torch.stack(values),
        honesty=float(known.median()) if len(known) else 1.0,
        still=float(torch.stack(still).double().mean()),
        arrived=not any(climbs[STEPS // 3 :]),
    )


def _single_step(model: Meter, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The margin loss after one full step along the gradient of the cross-entropy, (n,): FGSM."""
    rows = _rows(x, y, threat)
    grad = evaluate(model, losses.scaled_ce, State.at(rows, x)).grad
    with torch.no_grad():
        return losses.margin(model(threat.project(x, x + threat.stride(1) * threat.steepest(grad))), y, rows.target)


def _honest(climbed: Climbed) -> list[Finding]:
    """Whether gradients are there, and say how the loss will change."""
    if climbed.still > 0.1:
        return [
            _warning(
                "zero gradients",
                f"the gradient was exactly zero in {climbed.still:.0%} of the evaluations of a short search",
                "gradient attacks stand still: surviving them is no robustness",
                "look for rounding or saturation in the model; rely on the stages that use scores alone",
            )
        ]
    if climbed.honesty < DISHONEST:
        means = "gradients say nothing about the model's behaviour nearby, as after a shattering transformation"
        remedy = "rely on the stages that use scores alone, or take the transformation out (BPDA: straight_through)"
        name = "dishonest gradients"
    elif climbed.honesty < CURVED:
        means = "the loss bends within a step, as in nets trained by single steps: short searches are too optimistic"
        remedy = "look at what the stage square found; run the plan strict"
        name = "curved loss"
    else:
        return []
    return [_warning(name, f"of the change that gradients predict, {climbed.honesty:.0%} comes true", means, remedy)]


def _rising(climbed: Climbed) -> list[Finding]:
    """More steps must reach a larger loss, unless the search stands where its gradients send it."""
    best = climbed.values.cummax(0).values
    early, late = best[STEPS // 3], best[-1]
    if float((late - best[0]).nanmean()) > 0 and (climbed.arrived or float((late - early).nanmean()) > 0):
        return []
    return [
        _warning(
            "loss does not rise",
            f"{STEPS} steps reach no larger loss than {STEPS // 3}",
            "the search does not climb: its gradients point nowhere",
            "look for zero or random gradients; rely on the stages that use scores alone",
        )
    ]


def _iterated(climbed: Climbed, single: Tensor) -> list[Finding]:
    """Many steps must do at least as well as the first of them, and one alone must not look much better."""
    first, last, ever = (
        int((fooled > 0).sum()) for fooled in (climbed.values[1], climbed.values[-1], climbed.values.amax(0))
    )
    one, n = int((single > 0).sum()), len(single)
    if first > last + 1:
        return [
            _warning(
                "one step beats many",
                f"the first, full step of a search fooled {first} of {n} images, {STEPS} steps left {last} fooled",
                "iterated attacks get stuck where a long step does not: the loss is masked near the images",
                "compare with larger steps, restarts and the softened stages of the plan fast",
            )
        ]
    if one <= 0.3 * n and ever >= 0.9 * n:
        return [
            _warning(
                "single steps mislead",
                f"a single step fooled {one} of {n} images, {STEPS} smaller and smaller ones fooled {ever}",
                "the loss bends within one step, as after catastrophic overfitting (Wong et al. 2020, section 5.4)",
                "never judge this model by FGSM; train with more steps, or with a larger random start",
            )
        ]
    return []


def _unbounded(model: Meter, x: Tensor, y: Tensor, threat: Threat) -> list[Finding]:
    """In a set that holds a grey image for every image, everything must fall."""
    side = x[0].numel()
    radius = {"linf": 0.5, "l2": math.sqrt(side) / 2, "l1": side / 2, "l0": float(x.shape[2] * x.shape[3])}
    if threat.name not in radius or radius[threat.name] <= threat.eps:
        return []
    wide = threat.resized(radius[threat.name])
    left = torch.arange(len(x), device=x.device)
    at, steps = x, 20
    for step in range(steps + 1):
        rows = _rows(x[left], y[left], wide)
        seen = evaluate(model, losses.margin, State.at(rows, at))
        stands = seen.value <= 0
        at = wide.project(rows.x0, at + _size(wide, step, steps) * wide.steepest(seen.grad))[stands]
        left = left[stands]
        if not len(left):
            return []
    if len(left) <= max(1, len(x) // 10):
        return []
    return [
        _warning(
            "unbounded radius",
            f"{len(left)} of {len(x)} images withstand {steps} steps within {wide.eps:.3g}, where any image can become grey",
            "no classifier can be right there: the gradients do not show the way out",
            "do not rely on gradient attacks alone: run the plan fast or strict, which soften them and use scores",
        )
    ]


def _random(model: Meter, climbed: Climbed, x: Tensor, y: Tensor, threat: Threat) -> list[Finding]:
    """What random points of the set fool, a search in it must fool: the boundary is not nearer along a random direction."""
    rows, blind = _rows(x, y, threat), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        for draw in range(DRAWS):
            point = threat.sample(x, keys.fold(keys.fold(rows.key, draw), torch.arange(len(x), device=x.device)))
            rim = threat.project(x, x + threat.stride(1) * threat.steepest(point - x))
            for at in (point, rim):
                blind |= losses.margin(model(at), y, rows.target) > 0
    missed = int((blind & ~(climbed.values > 0).any(0)).sum())
    if missed <= 1:
        return []
    return [
        _warning(
            "noise beats search",
            f"one at least of {2 * DRAWS} random points fools {missed} of {len(x)} images that {STEPS} steps leave right",
            "the search does not find what lies everywhere around: gradients are masked",
            "rely on the stages that use scores alone; run the plan strict",
        )
    ]


_FLAT = {
    function: name
    for name in ("round", "floor", "ceil", "trunc", "sign", "heaviside", "bucketize", "argmax", "quantize_per_tensor")
    for owner in (torch, Tensor)
    if (function := getattr(owner, name, None)) is not None
}


class _Heard(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _FLAT and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            self.names[_FLAT[func]] = self.names.get(_FLAT[func], 0) + 1
        return func(*args, **(kwargs or {}))


def _steps(model: Classifier, x: Tensor) -> list[Finding]:
    """Functions in the forward whose derivative is zero wherever it exists."""
    with torch.enable_grad(), _Heard() as heard:
        model(x.detach().clone().requires_grad_())
    if not heard.names:
        return []
    return [
        Finding(
            check="non-differentiable",
            level="note",
            saw=f"its forward calls {', '.join(sorted(heard.names))} on values that depend on the image",
            means="no gradient passes there",
            remedy="the plan fast passes it straight through; for attacks of your own see Backward",
        )
    ]


def of_records(plan: Plan, past: Past, stages: Mapping[str, StageSummary], n: int) -> tuple[Finding, ...]:
    """What the records of a finished run, at its headline radius, say against its number.

    Args:
        plan: the stages that ran; ``past``: what they saw; ``stages``: what they cost and broke.
        n: samples in all.
    """
    found = []
    sighted = [place for place, stage in enumerate(plan.stages) if stage.attack.needs == "gradients"]
    later = plan.stages[sighted[0] + 1 :] if sighted else ()
    blind = {stage.name for stage in later if stage.attack.needs != "gradients"}
    black = sum(stages[name].broken for name in blind if name in stages)
    if black > max(1, 0.002 * n):
        found.append(
            _warning(
                "black box beats white box",
                f"attacks without gradients broke {black} samples that the gradient attacks before them left",
                "gradients are masked: what stands may fall to a better search",
                "treat the number as an upper bound that is not tight; run the plan strict",
            )
        )
    soft = [stages[stage.name] for stage in plan.stages if stage.backward is not None and stage.name in stages]
    took, first = sum(each.broken for each in soft), soft[0].entered if soft else 0
    if took > max(2, 0.02 * first):
        found.append(
            _warning(
                "softened beats plain",
                f"attacks through a softened backward pass broke {took} of {first} samples that plain gradients left",
                "dead units hide the way out from plain gradients: attacks that use those alone overestimate this model",
                "compare with the plan standard; publish the smaller number",
            )
        )
    for stage in plan.stages:
        if isinstance(stage.entry, Escalated) and (alarms := stage.entry.alarms(past)):
            found.append(
                Finding(
                    check="escalated",
                    level="note",
                    saw="a check without gradients raised an alarm: " + "; ".join(alarms),
                    means="gradients may not see everything here, so that Square searched the samples nearest to falling",
                    remedy="nothing to do; it is part of the plan",
                )
            )
    return tuple(found)


def _warning(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="warning", saw=saw, means=means, remedy=remedy)
