"""Checkerboard cutout."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.rowwise import rowwise

_CELLS = 32
"""Draws along each axis of the board; further squares take them again."""


@register
class CheckerboardCutout(Corruption):
    """Covers squares of a turned checkerboard with grey: each square of one colour with probability c.

    Source: ours, after Mintun, Kirillov and Xie, "On interaction between augmentations and corruptions in natural
    corruption robustness", NeurIPS 2021 (ImageNet-C-bar). The angle and the side of the squares, 0.1 to 0.25 of the
    image's shorter side, are drawn.

    ``table``: the probability c.
    """

    family: ClassVar = "digital"
    standing: ClassVar = "held_out"
    table: ClassVar = {
        "32": (0.35, 0.48, 0.61, 0.74, 0.87),
        "64": (0.45, 0.58, 0.71, 0.84, 0.97),
        "224": (0.6, 0.7, 0.8, 0.9, 1.0),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: float) -> Draws:
        return {
            "angle": randomness.uniform(randomness.fold(keys, 0), ()),
            "side": randomness.uniform(randomness.fold(keys, 1), ()),
            "cells": randomness.uniform(randomness.fold(keys, 2), (_CELLS, _CELLS)),
        }

    def apply(self, x: Tensor, constants: float, draws: Draws) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(height, dtype=torch.float32, device=x.device)[:, None] - (height - 1) / 2
        columns = torch.arange(width, dtype=torch.float32, device=x.device) - (width - 1) / 2

        def covered(x: Tensor, angle: Tensor, side: Tensor, cells: Tensor) -> Tensor:
            length = (0.1 + 0.15 * side) * min(height, width)
            turn = angle * (2 * math.pi)
            cos, sin = (turn.cos() / length)[:, None, None], (turn.sin() / length)[:, None, None]
            down = (cos * rows + sin * columns).floor().to(torch.int64)
            right = (cos * columns - sin * rows).floor().to(torch.int64)
            image = torch.arange(len(x), device=x.device)[:, None, None]
            # Remainders of negative numbers are positive here, so that the board goes on over its middle.
            chosen = cells[image, down % _CELLS, right % _CELLS] < constants
            return x.masked_fill((chosen & ((down + right) % 2 == 0))[:, None], 128)

        return rowwise(covered, x, draws["angle"], draws["side"], draws["cells"])
