"""Clean training images, class by class: what other images are mixed with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadData, BadValue

DRAW = keys.number("pool")


@dataclass(frozen=True, eq=False)
class Pool:
    """Images of every class, and where they come from. Build it with `Pool.of`. Pools of one fingerprint are equal.

    Args:
        images: (M, C, H, W), uint8 or floats in [0, 1], the classes one after another.
        counts: how many images each class has, (L,) int64, at least 1.
        source: what the images were taken from, for reports: "cifar10:train".
        fingerprint: 16 hexadecimal digits over the images and their classes.
        digests: of the contents of every image.
        foreign: whether the classes are not those of the model: then every image is of another class than any that is
            predicted.
    """

    images: Tensor
    counts: Tensor
    source: str
    fingerprint: str
    digests: frozenset[bytes]
    foreign: bool = False

    @classmethod
    def of(
        cls,
        images: Any,
        labels: Any,
        *,
        source: str,
        per_class: int | None = None,
        seed: int = 0,
        foreign: bool = False,
    ) -> Pool:
        """A pool of ``per_class`` images of each class, drawn without replacement; of all of them unless given.

        Args:
            images: (n, C, H, W) array or tensor, uint8 or floats in [0, 1]: of the training split, or of one that is
                neither trained nor tested on.
            labels: (n,) integers; every class from 0 to the largest needs an image.
            source: see above.
            per_class: at most so many; a class that has fewer gives all.
            seed: of the draw. A smaller pool of the same seed is a part of a larger one.
            foreign: see above.

        Raises:
            BadData: images of another form, or a class without an image.
            BadValue: ``per_class`` below 1.
        """
        x, y = torch.as_tensor(images), torch.as_tensor(labels)
        if per_class is not None and per_class < 1:
            raise BadValue(f"per_class is {per_class}; every class needs an image", hint="for example per_class=200")
        if x.dim() != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise BadData(
                f"the pool's images are {tuple(x.shape)} {x.dtype}", hint="give (n, C, H, W), uint8 or floats"
            )
        if x.is_floating_point() and x.numel() and not (float(x.min()) >= 0 and float(x.max()) <= 1):
            raise BadData("the pool's images leave [0, 1] or are not finite", hint="give them before normalisation")
        if y.shape != x.shape[:1] or y.is_floating_point() or not len(y) or int(y.min()) < 0:
            raise BadData(f"the pool's labels are {tuple(y.shape)} {y.dtype}", hint="give (n,) integers from 0")
        y = y.to(torch.int64)
        missing = (torch.bincount(y) == 0).nonzero().flatten().tolist()
        if missing:
            raise BadData(f"the pool has no image of the classes {missing}", hint="take more images, or all classes")
        order = keys.uniform(keys.fold(keys.root(seed), DRAW)[None], (len(y),))[0].argsort(stable=True)
        chosen = torch.cat([order[y[order].eq(label)][:per_class] for label in range(int(y.max()) + 1)]).to(x.device)
        x, counts = x[chosen].contiguous(), torch.bincount(y[chosen])
        digests = contents(x)
        total = hashlib.sha256(repr((counts.tolist(), str(x.dtype), tuple(x.shape))).encode())
        total.update(b"".join(digests))
        return cls(x, counts, source, total.hexdigest()[:16], frozenset(digests), foreign)

    @property
    def labels(self) -> Tensor:
        """The class of every image, (M,) int64."""
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)

    def others(self, predicted: Tensor) -> tuple[int, Tensor]:
        """How many labels there are besides the predicted one, and the label that each image (B,) leaves out."""
        count = len(self.counts)
        return (count, torch.full_like(predicted, count)) if self.foreign else (count - 1, predicted)

    def to(self, device: torch.device) -> Pool:
        """The same pool with its tensors there."""
        return replace(self, images=self.images.to(device), counts=self.counts.to(device))

    def take(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The images at these places, (*index.shape, C, H, W) floats in [0, 1]."""
        found = self.images[index].to(dtype)
        return found.div_(255) if self.images.dtype == torch.uint8 else found

    def check_apart(self, images: Any) -> None:
        """Refuses images under test that lie in the pool: their own labels would answer for them.

        Images (n, C, H, W), uint8 or floats in [0, 1], are compared to the nearest of 256 grey values.

        Raises:
            BadData: some lie in it; the message names how many and the first.
        """
        shared = [place for place, digest in enumerate(contents(torch.as_tensor(images))) if digest in self.digests]
        if shared:
            raise BadData(
                f"{len(shared)} images under test lie in the pool of {self.source}, the first at position {shared[0]}",
                hint="take the pool from the training split, and test on images that it does not hold",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pool) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str, bool]:
        return self.fingerprint, self.source, self.foreign

    def __repr__(self) -> str:
        counts = sorted(set(self.counts.tolist()))
        each = "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        kind = "foreign classes" if self.foreign else "classes"
        return f"Pool({self.source}, {len(self.counts)} {kind}, {each} images each, {self.fingerprint})"


def contents(images: Tensor) -> list[bytes]:
    """A digest of every image, (n, C, H, W) uint8 or floats in [0, 1], by its 256 grey values."""
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return [hashlib.sha256(memoryview(each)).digest()[:16] for each in grey.flatten(1).contiguous().cpu().numpy()]
