"""What a corruption is: what it draws, and what it does with the draws, apart, so that the draws of others can be replayed.

Images are uint8, (N,C,H,W) with C = 1 or 3, in and out. What is drawn for an image depends on the run's seed, the
corruption, the severity and the image's id alone, see `draw_keys`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.errors import BadData, BadValue
from holdfast.imaging.variant import variant_for

Draws = Mapping[str, Tensor]
"""Named draws; the first axis of each is the image."""

SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(ABC):
    """One common corruption at five severities.

    ``family``: what it is, in the benchmark's words. ``standing``: whether it is one of the 15 that the benchmark counts
    (``test``), one of its 4 extra ones, for tuning (``validation``), or one of our own that nobody trains on
    (``held_out``). ``colour_only``: whether it leaves grey images as they are. ``table``: variant -> the constants of
    severities 1 to 5.
    """

    family: ClassVar[Literal["noise", "blur", "weather", "digital"]]
    standing: ClassVar[Literal["test", "validation", "held_out"]]
    colour_only: ClassVar[bool] = False
    table: ClassVar[Mapping[str, Sequence[Any]]]

    @abstractmethod
    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: Any) -> Draws:
        """What is random about it, for one key (N,) int64 per image of ``shape`` (C, H, W)."""

    @abstractmethod
    def apply(self, x: Tensor, constants: Any, draws: Draws) -> Tensor:
        """The corrupted images of these draws: (N,C,H,W) uint8 to the same. No row depends on another."""

    def __call__(
        self, x: Tensor, severity: int, keys: Tensor, *, variant: str | None = None, draws: Draws | None = None
    ) -> Tensor:
        """The images ``x`` (N,C,H,W), uint8, corrupted; the same shape and type, on the same device.

        Args:
            severity: 1 to 5.
            keys: (N,) int64, see `draw_keys`.
            variant: whose constants to take, see `holdfast.imaging.variant`; chosen by the size of the images unless named.
            draws: what to take in place of the corruption's own draws: another implementation's, replayed.

        Raises:
            BadData: images of another type or shape.
            BadValue: a severity that does not exist, or a variant that does not fit the size.
        """
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise BadData(
                f"images of type {x.dtype} and shape {tuple(x.shape)} cannot be corrupted",
                hint="give uint8 of shape (N, 1 or 3, height, width)",
            )
        constants = self.table[variant_for(x.shape[-2:], variant)][check_severity(severity) - 1]
        if not len(x):
            return x.clone()
        _, channels, height, width = x.shape
        if draws is None:
            draws = self.draw(keys.to(x.device), (channels, height, width), constants)
        return self.apply(x, constants, draws)


def draw_keys(seed: int, name: str, severity: int, ids: Tensor) -> Tensor:
    """(N,) keys: all that the draws of corruption ``name`` for the images ``ids`` (N,) int64 depend on."""
    of_run = keys.fold(keys.root(seed, device=ids.device), keys.number(f"corruption {name}"))
    return keys.fold(keys.fold(of_run, severity), ids)


def check_severity(severity: int) -> int:
    """The severity, 1 to 5. Raises BadValue for any other."""
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise BadValue(f"severity is {severity!r}; it must be one of 1, 2, 3, 4, 5", hint="for example severity=3")
    return int(severity)


def to_uint8(unit: Tensor) -> Tensor:
    """Floats in units of [0, 1] to uint8, clipped and truncated as the benchmark does, never rounded."""
    return unit.clamp(0, 1).mul(255).to(torch.uint8)
