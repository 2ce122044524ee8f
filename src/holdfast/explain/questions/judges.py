"""Who says what a perturbed image shows: the nearest known images, or a robust net that is not under judgement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from holdfast.explain.case import Case, Net
from holdfast.probes.neighbours import voted


@dataclass(frozen=True)
class Judge:
    """What it is, in words that are a plural's subject; images -> classes (n,) on the CPU; its net's name, if it is one."""

    words: str
    says: Callable[[Tensor], Tensor]
    net: str = ""


def neighbours(case: Case, k: int) -> Judge | None:
    """The k nearest known images, by L2 over pixel values; None where none are known."""
    if case.known is None:
        return None
    known, votes = case.batch(case.nets[0], case.known), min(k, len(case.known))
    x, labels = known.x.cpu(), known.y.cpu()
    words = f"the {votes} nearest of {len(x)} known images"
    return Judge(words, lambda images: voted(images.cpu(), x, labels, votes))


def robust_net(net: Net) -> Judge:
    """A net that stands in for a person: that it is robust, its caller has measured."""
    return Judge(f"the answers of {net.name}", lambda images: answers(net, images), net.name)


def answers(net: Net, x: Tensor) -> Tensor:
    """The classes that a net gives images of any dtype and device, (n,) int64 on the CPU."""
    return net.logits(x.to(net.model.device, net.model.dtype)).argmax(1).cpu()
