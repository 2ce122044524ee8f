"""The batches of a training: data resident on the device, each batch a pure function of its number."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import keys
from holdfast.data.source import Source
from holdfast.objectives.objective import Examples
from holdfast.training.recipe import Recipe


class Batches:
    """All batches of a training, by number from 0; ``per_epoch`` of them are an epoch.

    An epoch has as many images as the source. Where there are extra data they take their share of every batch (Gowal et
    al., "Improving robustness using generated data", NeurIPS 2021), so that a pass over the source takes longer than that.

    Args:
        source: the training data; uint8 images stay uint8 in memory.
        recipe: batch size, order, augmentation and the share of the extra data.
        extra: generated or otherwise labelled images of the same shape.
        dtype: of the images handed out; ``device``: where they live.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        dtype: torch.dtype,
        device: torch.device,
        extra: Source | None = None,
    ) -> None:
        self.recipe, self.dtype = recipe, dtype
        root = keys.fold(keys.root(recipe.seed, device=device), keys.number("training"))
        self._own = _Resident(source, root, 0, device)
        self._extra = None if extra is None else _Resident(extra, root, len(source), device)
        self._others = 0 if extra is None else round(recipe.extra_share * recipe.batch_size)
        self.per_epoch = math.ceil(len(source) / recipe.batch_size)

    @property
    def bytes(self) -> int:
        """What the data take on the device."""
        return sum(each.images.nbytes for each in (self._own, self._extra) if each is not None)

    def at(self, number: int) -> Examples:
        """Batch ``number``, augmented: images (N, C, H, W) in [0, 1], labels, and a key for each image and epoch."""
        size = self.recipe.batch_size
        if self._extra is None:
            epoch, within = divmod(number, self.per_epoch)
            count = min(size, self._own.size - within * size)
            images, labels, key = self._own.take(epoch * self._own.size + within * size, count)
        else:
            own = self._own.take(number * (size - self._others), size - self._others)
            images, labels, key = map(torch.cat, zip(own, self._extra.take(number * self._others, self._others)))
        x = unit(images, self.dtype)
        x = _flipped(shifted(x, self.recipe.shift, keys.fold(key, 1)), self.recipe.flip, keys.fold(key, 2))
        return Examples(x, labels, keys.fold(key, 0))


class _Resident:
    """Images in memory, handed out pass after pass, each pass in an order of its own."""

    def __init__(self, source: Source, root: Tensor, first: int, device: torch.device) -> None:
        batch = source.take(source.ids)
        self.images = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
        self.labels = torch.from_numpy(np.asarray(batch.labels, dtype=np.int64)).to(device)
        self.size = len(self.labels)
        self._root, self._names = root, torch.arange(first, first + self.size, device=device)
        self._turns: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images, labels and keys at the places ``start`` to ``start + count - 1`` of all passes in a row."""
        found = []
        while count:
            turn, at = divmod(start, self.size)
            key, order = self._turn(turn + 1)
            chosen = order[at : at + count]
            found.append((self.images[chosen], self.labels[chosen], key[chosen]))
            start, count = start + len(chosen), count - len(chosen)
        if len(found) == 1:
            return found[0]
        images, labels, key = map(torch.cat, zip(*found)) if found else self._nothing()
        return images, labels, key

    def _nothing(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[:0], self.labels[:0], self._names[:0]

    def _turn(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self._turns:
            key = keys.fold(keys.fold(self._root, number), self._names)
            # A batch can straddle two passes, never three.
            self._turns = {each: kept for each, kept in self._turns.items() if each == number - 1}
            self._turns[number] = key, key.sort().indices
        return self._turns[number]


def unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images as floats in [0, 1]; uint8 is divided in float32, as everywhere."""
    return (images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images).to(dtype)


def shifted(x: Tensor, shift: int, key: Tensor) -> Tensor:
    """Images moved by up to ``shift`` pixels in each direction, the border repeated."""
    if not shift:
        return x
    height, width = x.shape[2:]
    padded = F.pad(x, (shift,) * 4, mode="replicate")
    down, right = keys.integers(key, (2,), 2 * shift + 1).unbind(1)
    i = (torch.arange(height, device=x.device) + down[:, None])[:, None, :, None]
    j = (torch.arange(width, device=x.device) + right[:, None])[:, None, None, :]
    n, c = (torch.arange(size, device=x.device) for size in x.shape[:2])
    return padded[n[:, None, None, None], c[None, :, None, None], i, j]


def _flipped(x: Tensor, flip: bool, key: Tensor) -> Tensor:
    """Half of the images mirrored, where that is asked for."""
    return torch.where(keys.integers(key, (1, 1, 1), 2).bool(), x.flip(3), x) if flip else x
