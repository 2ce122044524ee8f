"""Frost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.blockwise import blockwise
from holdfast.imaging.colour import luma
from holdfast.imaging.crystals import crystals, places_for
from holdfast.imaging.plasma import side_for
from holdfast.imaging.resample import bilinear
from holdfast.imaging.rowwise import rowwise

_USED = 5
"""Of six pictures: the released code draws from the first five."""

_SPACING = 50.0
"""Between the crystals of the procedural frost at scale 1, in pixels."""


@register
@dataclass(frozen=True, eq=False)
class Frost(Corruption):
    """Lays a random piece of a photograph of frost over the image: a * x + b * frost.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. Reproduced from the released code: of its six photographs the sixth is never drawn, the third
    is the second once more; for small images they are shrunk without smoothing; and the change is not monotone in
    severity. **Without pictures the frost is procedural** (crystals of our own, a pure function of the draws, about as
    light and as rough as the photographs): the number is then not the published one.

    Args:
        pictures: the generator's photographs in their order, (3,H,W) uint8 each. One that is too small for an image
            is enlarged to cover it.

    ``table``: the factors a and b, without unit, and the scale of the photographs.
    """

    family: ClassVar = "weather"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": ((1.0, 0.2, 0.2), (1.0, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
        "64": ((1.0, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        "224": ((1.0, 0.4, 1.0), (0.8, 0.6, 1.0), (0.7, 0.7, 1.0), (0.65, 0.7, 1.0), (0.6, 0.75, 1.0)),
    }

    pictures: tuple[Tensor, ...] = ()
    _scaled: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, float, float]) -> Draws:
        _, height, width = shape
        if not self.pictures:
            places = places_for(height, width, _SPACING * constants[2])
            return {
                "seeds": randomness.uniform(randomness.fold(keys, 0), (*places, 4)),
                "noise": randomness.uniform(randomness.fold(keys, 1), (side_for(height, width) ** 2 - 1,)),
                "tone": randomness.uniform(randomness.fold(keys, 2), (2,)),
            }
        pictures = self._fitting(shape, constants[2], keys.device)
        picture = randomness.integers(randomness.fold(keys, 0), (), len(pictures))
        room = torch.tensor([(p.shape[1] - height, p.shape[2] - width) for p in pictures], device=keys.device)
        place = randomness.uniform(randomness.fold(keys, 1), (2,), dtype=torch.float64) * room[picture]
        row, column = place.to(torch.int64).unbind(1)
        return {"picture": picture, "row": row, "column": column}

    def apply(self, x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
        share, weight, scale = constants
        frost = self._cut(x, scale, draws) if self.pictures else _grown(x, scale, draws)

        def over(x: Tensor, frost: Tensor) -> Tensor:
            return (x.to(torch.float64) * share + frost.to(torch.float64) * weight).clamp_(0, 255).to(torch.uint8)

        return blockwise(over, x, frost)

    def _cut(self, x: Tensor, scale: float, draws: Draws) -> Tensor:
        frost = torch.empty_like(x)
        for index, picture in enumerate(self._fitting(tuple(x.shape[1:]), scale, x.device)):
            windows = picture.unfold(1, x.shape[2], 1).unfold(2, x.shape[3], 1)
            chosen = (draws["picture"] == index).nonzero()[:, 0]
            frost[chosen] = windows[:, draws["row"][chosen], draws["column"][chosen]].transpose(0, 1)
        return frost

    def _fitting(self, shape: tuple[int, ...], scale: float, device: torch.device) -> tuple[Tensor, ...]:
        """The pictures that are drawn from, scaled, each larger than an image of ``shape`` (C,H,W) on both sides."""
        key = (*shape, scale, device)
        if key not in self._scaled:
            self._scaled[key] = tuple(_fitted(picture, shape, scale).to(device) for picture in self.pictures[:_USED])
        return self._scaled[key]


def _fitted(picture: Tensor, shape: tuple[int, ...], scale: float) -> Tensor:
    channels, *sides = shape
    scale = max(scale, *((side + 1) / of for side, of in zip(sides, picture.shape[1:])))
    height, width = (max(round(of * scale), side + 1) for side, of in zip(sides, picture.shape[1:]))
    if scale != 1:
        picture = bilinear(picture, (height, width), scale)
    if channels == 1:
        picture = luma(picture[None].to(torch.float32))[0].round_().to(torch.uint8)
    return picture


def _grown(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """Procedural frost of the shape of ``x``; its tone lies between those of the photographs."""
    tint = x.new_tensor([-1.0, 0.1, 0.5] if x.shape[1] == 3 else [0.0], dtype=torch.float32)[:, None, None]

    def grow(x: Tensor, seeds: Tensor, noise: Tensor, tone: Tensor) -> Tensor:
        relief = crystals(seeds, noise, (x.shape[2], x.shape[3]), _SPACING * scale)
        light, blue = tone.to(torch.float32)[:, :, None, None, None].unbind(1)
        levels = (55 + 75 * light + 150 * relief[:, None]) + (8 + 30 * blue) * tint
        return levels.clamp_(0, 255).to(torch.uint8)

    return rowwise(grow, x, draws["seeds"], draws["noise"], draws["tone"])
