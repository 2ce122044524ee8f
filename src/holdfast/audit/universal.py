"""One perturbation for all images: how many it fools, among those it was made from and among others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from holdfast import keys, losses
from holdfast.ascent import engine
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.steps import cosine
from holdfast.audit.conclude import rate
from holdfast.foundation.errors import BadData, BadValue
from holdfast.records.schema import Rate
from holdfast.threats.threat import Threat

CLIPPED = 9.0
"""Where an image's cross-entropy stops to count: else a few images, fooled long since, would decide every step."""


@dataclass(frozen=True)
class Universal:
    """A universal perturbation and what it does.

    Args:
        delta: what is added to every image before it is clipped to [0, 1], (C, H, W).
        made: the share of the images that it was made from that it fools, of those classified correctly without it.
        held_out: the same on images that it has not seen: this is the number to report.
        forwards: evaluations of one image; backwards: input gradients.
    """

    delta: Tensor
    made: Rate
    held_out: Rate
    forwards: int
    backwards: int


def universal(
    model: nn.Module | Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 200,
    batch: int = 64,
    held_out: float = 0.5,
    seed: int = 0,
) -> Universal:
    """Makes one perturbation from a share of the images, and counts on these and on the others whom it fools.

    Source: Moosavi-Dezfooli et al., "Universal adversarial perturbations" (CVPR 2017), made by projected stochastic gradient
    ascent: Shafahi et al., "Universal adversarial training" (AAAI 2020), algorithm 2, the cross-entropy of every image
    clipped. Departure: the steps begin with one radius and shrink along a cosine. The radius bounds ``delta`` itself; what
    clipping to [0, 1] takes off an image only brings it nearer.

    Args:
        model: images in [0, 1] -> logits. A module is evaluated in eval mode and left as it was found.
        x: clean images, (N, C, H, W) floats in [0, 1], on the model's device; y: their labels, (N,) int64.
        threat: ``linf`` or ``l2``.
        steps: how many batches; batch: how many images in each, drawn from those that ``delta`` is made from.
        held_out: the share of the images that it is not made from.
        seed: of the split and of the batches.

    Raises:
        BadValue: another threat set, or options out of range.
        BadData: too few images are classified correctly to have some on either side.
    """
    if threat.name not in _INTO_BALL:
        raise BadValue(f"no universal perturbation is made for {threat.name!r}", hint="it takes linf or l2")
    if steps < 1 or batch < 1 or not 0 < held_out < 1:
        raise BadValue(
            f"steps is {steps}, batch is {batch}, held_out is {held_out}",
            hint="give at least 1 step and 1 image a batch, and a share between 0 and 1",
        )
    y = y.to(torch.int64)
    meter = Meter(model)
    with frozen(model):
        right = (_answers(meter, x) == y).nonzero()[:, 0]
        split = _split(right, held_out, keys.root(seed, device=x.device))
        if not len(split.seen) or not len(split.unseen):
            raise BadData(
                f"{len(right)} images are classified correctly: too few to make a perturbation and to judge it",
                hint="give more images",
            )
        delta = _ascended(meter, x[split.seen], y[split.seen], threat, steps, batch, keys.fold(keys.root(seed), 1))
        made, unseen = (
            rate(int((_answers(meter, (x[part] + delta).clamp(0, 1)) != y[part]).sum()), len(part)) for part in split
        )
    return Universal(delta, made, unseen, meter.forwards, meter.backwards)


class _Split(NamedTuple):
    """The places of the images that the perturbation is made from, and of the others."""

    seen: Tensor
    unseen: Tensor


def _split(places: Tensor, held_out: float, key: Tensor) -> _Split:
    order = places[keys.uniform(key[None], (len(places),))[0].argsort(stable=True)]
    kept = round(len(places) * (1 - held_out))
    return _Split(order[:kept], order[kept:])


def _ascended(model: Classifier, x: Tensor, y: Tensor, threat: Threat, steps: int, batch: int, key: Tensor) -> Tensor:
    """The perturbation, (C, H, W)."""
    delta = torch.zeros_like(x[:1])
    none = torch.full_like(y[:batch], -1)
    for step in range(steps):
        count = min(batch, len(x))
        # The smallest of random numbers: a batch without repetition.
        chosen = keys.uniform(keys.fold(key, step)[None], (len(x),))[0].argsort(stable=True)[:count].to(x.device)
        with torch.enable_grad():
            images = (x[chosen] + delta).clamp(0, 1).requires_grad_()
            loss = losses.ce(model(images), y[chosen], none[:count]).clamp_max(CLIPPED)
            (grad,) = torch.autograd.grad(loss.sum(), images)
        # A pixel that clipping holds at 0 or 1 does not follow the perturbation.
        free = (x[chosen] + delta >= 0) & (x[chosen] + delta <= 1)
        size = threat.eps * float(cosine(torch.tensor(step), steps))
        delta = _INTO_BALL[threat.name](delta + size * threat.steepest((grad * free).sum(0, keepdim=True)), threat.eps)
    return delta[0]


def _clipped(delta: Tensor, eps: float) -> Tensor:
    return delta.clamp(-eps, eps)


def _shortened(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / delta.norm().clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


_INTO_BALL = {"linf": _clipped, "l2": _shortened}


def _answers(model: Classifier, x: Tensor) -> Tensor:
    """The predicted classes, (N,)."""
    return torch.cat([engine.predict(model, part).argmax(1) for part in x.split(engine.default_slots(x))])
