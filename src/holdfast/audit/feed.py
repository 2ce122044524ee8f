"""Samples from a source, on the model's device, as the engine asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.data.source import Takes, unit_images


@dataclass(frozen=True)
class SourceFeed:
    """A feed (see `holdfast.ascent.engine.Feed`) over some samples of a source; only those asked for are in memory.

    Args:
        source: where the images come from.
        ids: the samples, in the engine's positions 0 to N - 1.
        key: (N,) int64, on ``device``.
        dtype: of the images handed out.
        device: likewise.
    """

    source: Takes
    ids: np.ndarray
    key: Tensor
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, source: Takes, ids: np.ndarray, *, seed: int, dtype: torch.dtype, device: torch.device) -> SourceFeed:
        """The feed of a run with that seed: a sample's draws depend on its id alone."""
        key = keys.fold(keys.root(seed, device=device), torch.from_numpy(np.ascontiguousarray(ids)).to(device))
        return cls(source, ids, key, dtype, device)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return tensors(self.source, self.ids[positions.cpu().numpy()], dtype=self.dtype, device=self.device)


def tensors(source: Takes, ids: np.ndarray, *, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) floats in [0, 1] and labels (n,) int64 of these ids."""
    batch = source.take(ids)
    images = torch.from_numpy(np.ascontiguousarray(unit_images(batch.images)))
    return images.to(device, dtype), torch.from_numpy(np.asarray(batch.labels, dtype=np.int64)).to(device)


def uint8_images(images: np.ndarray) -> Tensor:
    """Images of a source, uint8 or floats in [0, 1], as a uint8 tensor (n,C,H,W); floats are rounded."""
    exact = images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(exact))
