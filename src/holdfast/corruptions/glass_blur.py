"""Glass blur."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian
from holdfast.imaging.rowwise import rowwise


@register
class GlassBlur(Corruption):
    """Blurs, moves pixels about within a small neighbourhood, as frosted glass does, and blurs again.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. Reproduced from the released code: what is meant to swap two pixels copies one onto the other;
    offsets run from -d to d - 1; the first d + 1 rows and columns and the last d - 1 stay; the first blur truncates; at
    0.05 pixels nothing is blurred.

    There the pixels are visited one after the other, from the last to the first, and each takes what its neighbour then
    shows. Here each points to its neighbour, as it was or, where that has been visited before, as it has become; all
    pointers jump to where their target points until they end at a pixel as it was.

    ``table``: the standard deviation of both blurs, in pixels; the largest offset d; the number of passes.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "64": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "224": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, int, int]) -> Draws:
        """``offset`` (N, passes, H, W) uint8 is (dy + d) * 2 d + dx + d: one of the (2 d)**2 neighbours."""
        _, reach, passes = constants
        uniform = randomness.uniform(keys, (passes, *shape[1:]))
        return {"offset": uniform.mul_((2 * reach) ** 2).to(torch.uint8)}

    def apply(self, x: Tensor, constants: tuple[float, int, int], draws: Draws) -> Tensor:
        sigma, reach, _ = constants

        def moved(levels: Tensor, offsets: Tensor) -> Tensor:
            taken = _sources(offsets[:, 0], reach)
            for offset in offsets.unbind(1)[1:]:
                taken = taken.index_select(0, _sources(offset, reach))
            planes = [plane.reshape(-1).index_select(0, taken).view(plane.shape) for plane in levels.unbind(1)]
            return torch.stack(planes, 1)

        return gaussian(rowwise(moved, gaussian(x, sigma, bound=256), draws["offset"]), sigma, bound=256)


def _sources(offset: Tensor, reach: int) -> Tensor:
    """For every pixel of the batch, (N * H * W,) int32: the pixel whose value it shows after one pass."""
    count, height, width = offset.shape
    size = offset.numel()
    steps = torch.arange(-reach, reach, device=offset.device)
    down, right = steps[:, None], steps
    # Pixel p is number p as it has become, and number p + size as it was.
    become = (down > 0) | ((down == 0) & (right > 0))  # visited before: the scan runs from the last pixel to the first
    jump = (down * width + right + torch.where(become, 0, size)).flatten().to(torch.int32)
    pointer = torch.full((count, height, width), size, dtype=torch.int32, device=offset.device)
    inner = offset[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    pointer[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = jump.index_select(
        0, inner.reshape(-1).to(torch.int32)
    ).view(inner.shape)
    number = torch.arange(2 * size, dtype=torch.int32, device=offset.device)
    pointer = torch.cat([pointer.flatten() + number[:size], number[size:]])
    while int(pointer[:size].amin()) < size:
        pointer = pointer.index_select(0, pointer)
    return pointer[:size] - size
