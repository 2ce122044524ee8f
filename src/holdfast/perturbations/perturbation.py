"""What a perturbation is: a short film of each image, over which a steady classifier would not change its mind.

Images are uint8, (N,C,H,W) with C = 1 or 3; the frames that come out are (N,F,C,H,W). As for corruptions, what is drawn
and what is done with the draws stand apart, and the draws for an image depend on the run's seed, the perturbation and the
image's id alone, see `draw_keys`.

Departure from the released ImageNet-P: there, images of 256 pixels were turned, scaled and moved before 224 were cut out
of their middle, and the frames were stored as H.264 films, with loss. Here the frames have the size of the image and are
exact; whoever wants the border filled as there gives the larger images and cuts the frames.
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

DIFFICULTIES = (1, 2, 3)

_AT_ONCE = 1 << 25
"""Values of frames that are made at once: four times as many bytes, where every value has a draw of its own."""


class Perturbation(ABC):
    """One perturbation.

    ``standing``: whether it is one of the 10 that the benchmark counts (``test``) or one of its ``extra`` ones, for tuning.
    ``noise``: whether frames are drawn independently; then each is compared with the first, which is the clean image, else
    with the one before. ``table``: variant -> the constants of each difficulty, the number of frames first. Only noises
    come in three difficulties: elsewhere a difficulty d compares frames that are d apart.
    """

    standing: ClassVar[Literal["test", "extra"]]
    noise: ClassVar[bool]
    table: ClassVar[Mapping[str, Sequence[tuple[Any, ...]]]]

    @abstractmethod
    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[Any, ...]) -> Draws:
        """What is random about it, for one key (N,) int64 per image of ``shape`` (C, H, W)."""

    @abstractmethod
    def apply(self, x: Tensor, constants: tuple[Any, ...], draws: Draws) -> Tensor:
        """The frames of these draws: (N,C,H,W) uint8 to (N,F,C,H,W). No row depends on another."""

    def __call__(
        self,
        x: Tensor,
        keys: Tensor,
        *,
        difficulty: int = 1,
        variant: str | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """The frames (N,F,C,H,W) of the images ``x`` (N,C,H,W), uint8, on the same device.

        Args:
            keys: (N,) int64, see `draw_keys`.
            difficulty: 1, 2 or 3: how strong a noise is. Frames that are no noise are the same at all of them.
            variant: whose constants to take, see `holdfast.imaging.variant`; chosen by the images' size unless named.
            draws: what to take in place of the perturbation's own draws: another implementation's, replayed.

        Raises:
            BadData: images of another type or shape.
            BadValue: a difficulty that does not exist, or a variant that does not fit the size.
        """
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise BadData(
                f"images of type {x.dtype} and shape {tuple(x.shape)} cannot be perturbed",
                hint="give uint8 of shape (N, 1 or 3, height, width)",
            )
        level = check_difficulty(difficulty) - 1
        constants = self.table[variant_for(x.shape[-2:], variant)][level if self.noise else 0]
        count, channels, height, width = x.shape
        frames = x.new_empty(count, constants[0], channels, height, width)
        rows = max(1, _AT_ONCE * count // max(1, frames.numel()))
        for first in range(0, count, rows):
            part = slice(first, first + rows)
            if draws is None:
                drawn = self.draw(keys[part].to(x.device), (channels, height, width), constants)
            else:
                drawn = {name: each[part] for name, each in draws.items()}
            frames[part] = self.apply(x[part], constants, drawn)
        return frames


def draw_keys(seed: int, name: str, ids: Tensor) -> Tensor:
    """(N,) keys: all that the draws of perturbation ``name`` for the images ``ids`` (N,) int64 depend on.

    The difficulty is not among it: a harder noise is the same noise, stronger.
    """
    return keys.fold(keys.fold(keys.root(seed, device=ids.device), keys.number(f"perturbation {name}")), ids)


def check_difficulty(difficulty: int) -> int:
    """The difficulty, 1 to 3. Raises BadValue for any other."""
    if isinstance(difficulty, bool) or difficulty not in DIFFICULTIES:
        raise BadValue(f"difficulty is {difficulty!r}; it must be one of 1, 2, 3", hint="1 is the usual one")
    return int(difficulty)
