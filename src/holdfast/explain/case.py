"""What a question is asked about: nets side by side, the same images for all, and images that the nets may have seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.engine import default_slots, predict
from holdfast.ascent.state import Rows
from holdfast.audit.feed import tensors
from holdfast.data.source import Source
from holdfast.foundation.errors import BadData, BadValue
from holdfast.models.model import Model
from holdfast.threats.threat import Threat

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""The norms that questions know, as they are written."""

Role = Literal["model", "twin", "untrained"]


class Batch(NamedTuple):
    """Images x (n, C, H, W) in [0, 1], their labels y (n,) int64 and ids (n,) int64, on a net's device, in its dtype."""

    x: Tensor
    y: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Net:
    """A net under the same questions: what tables and legends call it, and what it is there for.

    The ``model`` is what was asked about; a ``twin`` is what it is compared with; ``untrained`` has the same architecture
    and fresh weights: what it shows is no finding about training.
    """

    name: str
    model: Model
    role: Role = "model"

    def logits(self, x: Tensor) -> Tensor:
        """Of any number of images (n, C, H, W), without gradients: (n, K)."""
        return torch.cat([predict(self.model, part) for part in x.split(default_slots(x))])


@dataclass(frozen=True)
class Case:
    """Nets, images and the set of allowed perturbations. The nets are frozen while a question is asked.

    Args:
        nets: the model first, then its twins, then the untrained control, where there is one.
        source: the images under test, no more than are asked for.
        threat: what an adversary may do: Linf, L2 or L1.
        known: labelled images that the nets may have been trained on, none of them under test; None where there are none.
        seed: of every draw.
        confidence: of every interval.

    Raises:
        BadValue: another threat, or one of radius 0.
    """

    nets: tuple[Net, ...]
    source: Source
    threat: Threat
    known: Source | None = None
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.threat.name not in NORMS:
            raise BadValue(
                f"threat is {self.threat.name}", hint=f"questions know {', '.join(NORMS)}: choose one of them"
            )
        if not self.threat.eps > 0:
            raise BadValue(
                "eps is 0: within it there is nothing to ask about", hint="give the radius, for example 8/255"
            )

    @property
    def labels(self) -> list[str]:
        """The names of all classes that any net knows; a number where the data have no name."""
        known = list(self.source.class_names)
        return [*known, *map(str, range(len(known), max(net.model.classes for net in self.nets)))]

    @property
    def n(self) -> int:
        return len(self.source)

    @property
    def within(self) -> str:
        """The threat set in words: ``Linf 0.1``."""
        return f"{NORMS[self.threat.name]} {self.threat.eps:.3g}"

    @property
    def trained(self) -> tuple[Net, ...]:
        """The nets without the control."""
        return tuple(net for net in self.nets if net.role != "untrained")

    def batch(self, net: Net, source: Source | None = None) -> Batch:
        """The images under test, or those of another source, as ``net`` takes them."""
        source = self.source if source is None else source
        x, y = tensors(source, np.asarray(source.ids), dtype=net.model.dtype, device=net.model.device)
        return Batch(x, y, torch.from_numpy(np.array(source.ids, dtype=np.int64)).to(net.model.device))

    def rows(self, batch: Batch, *salt: int, threat: Threat | None = None) -> Rows:
        """Untargeted searches of these images; ``salt`` makes the draws of several searches different."""
        key = keys.fold(keys.root(self.seed, device=batch.x.device), batch.ids)
        for number in salt:
            key = keys.fold(key, number)
        return Rows(batch.x, batch.y, torch.full_like(batch.y, -1), key, threat or self.threat)


def apart(known: Source, tested: Source) -> None:
    """Makes sure, by content, that no image under test is among the known ones. Raises BadData."""
    seen = {image.tobytes() for image in known.take(known.ids).images}
    both = [int(one) for one, image in zip(tested.ids, tested.take(tested.ids).images) if image.tobytes() in seen]
    if both:
        raise BadData(
            f"{len(both)} images under test are among the known ones of {known.name}: {both[:5]}",
            hint="give --train with other images than those under test",
        )
