"""Tries how else a classifier may want its images, by normalisation, range and channel order, or number its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from holdfast.models.model import Model
from holdfast.models.normalisation import PRESETS, Moments
from holdfast.nets.normalise import Normalise

_IMAGES = 128


@dataclass(frozen=True)
class Rewiring:
    """A way to feed the model that makes it right clearly more often.

    Args:
        name: what was done to the images.
        remedy: how to ask for it.
        right: images classified correctly with it.
        before: images classified correctly as they are given.
        n: images tried.
        alike: names of other presets that these images cannot tell from it.
    """

    name: str
    remedy: str
    right: int
    before: int
    n: int
    alike: tuple[str, ...] = ()


def best_rewiring(model: Model, images: Tensor, labels: Tensor) -> Rewiring | None:
    """The best candidate, if the 95 % interval of its accuracy lies wholly above that of the model as given.

    Args:
        model: the classifier; call it inside `frozen`.
        images: (n,C,H,W) in [0,1], of the model's dtype and device; the first 128 are used.
        labels: (n,) integers on the same device.

    A normalisation in front of the model is taken off first, so that one too many is found as well.
    """
    from holdfast.foundation.stats import wilson

    images, labels = images[:_IMAGES], labels[:_IMAGES]
    n, before = len(images), _right(model.module, images, labels)
    presets = {_named(preset) for preset in PRESETS}
    found = [
        Rewiring(name, remedy, _right(call, images, labels), before, n)
        for name, remedy, call in _candidates(model, images)
    ]
    best = max(found, key=lambda each: each.right)
    interval = wilson(best.right, n)
    if interval.low <= wilson(before, n).high:
        return None
    if best.name not in presets:
        return best
    # Photographs have such similar statistics that a few images decide between them: the likeliest comes first.
    alike = [each for each in found if each.name in presets and each.right >= interval.low * n]
    return replace(alike[0], alike=tuple(each.name for each in alike[1:]))


@dataclass(frozen=True)
class Renumbering:
    """Other numbers of the classes, under which the model is right clearly more often.

    Args:
        numbers: what the model seems to call each class of the data.
        right: images classified correctly under them, of those that had no part in finding them.
        n: those images.
    """

    numbers: tuple[int, ...]
    right: int
    n: int


def best_renumbering(logits: Tensor, labels: Tensor) -> Renumbering | None:
    """The one-to-one matching of labels to predictions that suits half of each class's images best, judged on the others.

    Args:
        logits: (n,K), K at least the largest label + 1.
        labels: (n,) integers.

    Returns:
        None unless the 95 % interval of its accuracy lies wholly above that of the numbers as given.
    """
    from scipy.optimize import linear_sum_assignment

    from holdfast.foundation.stats import wilson

    grouped = labels.argsort(stable=True)
    labels, predicted, classes = labels[grouped].cpu(), logits.argmax(1)[grouped].cpu(), logits.shape[1]
    counts = torch.zeros(classes, classes).index_put_((labels[::2], predicted[::2]), torch.ones(1), accumulate=True)
    numbers = torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
    labels, predicted = labels[1::2], predicted[1::2]
    right, before, n = int((numbers[labels] == predicted).sum()), int((labels == predicted).sum()), len(labels)
    if not n or wilson(right, n).low <= wilson(before, n).high:
        return None
    return Renumbering(tuple(numbers.tolist()), right, n)


def _named(preset: str) -> str:
    return f"the normalisation of {preset}"


def _right(call: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return sum(int((call(x).argmax(1) == y).sum()) for x, y in zip(images.split(64), labels.split(64)))


def _candidates(model: Model, images: Tensor) -> Iterator[tuple[str, str, Callable[[Tensor], Tensor]]]:
    channels, size = images.shape[1], images.shape[2]
    core, wrapped = model.module, False
    if isinstance(core, nn.Sequential) and len(core) == 2 and isinstance(core[0], Normalise):
        core, wrapped = core[1], True

    def behind(moments: Moments) -> Callable[[Tensor], Tensor]:
        front = Normalise(*moments).to(images.device, images.dtype)
        return lambda x: core(front(x))

    if wrapped:
        yield "no normalisation in front", "pass --normalise 0/1: this model has its normalisation inside", core
    names = [name for name, moments in PRESETS.items() if len(moments.mean) == channels]
    for name in sorted(names, key=lambda name: (name == "imagenet") != (size >= 64)):
        yield _named(name), f"pass --normalise {name}", behind(PRESETS[name])
    half, bytes_ = Moments((0.5,), (0.5,)), Moments((0.0,), (1 / 255,))
    yield "inputs in [-1,1]", f"pass --normalise {half}", behind(half)
    yield "inputs in 0 to 255", f"pass --normalise {bytes_}", behind(bytes_)
    given = model.module
    if channels == 3:
        yield (
            "the channels in the order BGR",
            "wrap the model: lambda images: model(images.flip(1))",
            lambda x: given(x.flip(1)),
        )
    yield "inverted images", "wrap the model: lambda images: model(1 - images)", lambda x: given(1 - x)
