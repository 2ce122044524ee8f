"""Elastic transform."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from holdfast import keys as randomness
from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register
from holdfast.imaging.gaussian import gaussian
from holdfast.imaging.rowwise import rowwise
from holdfast.imaging.warp import sample


@register
class ElasticTransform(Corruption):
    """Moves three points at random and the image with them (an affine map), then stretches small regions: each pixel
    is read at a random displacement, smoothed over the neighbours.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3, after Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied
    to visual document analysis", ICDAR 2003. Reproduced from the released code: the constants of the large images,
    made for a side of 244 in place of 224; and a change that is largest at severity 1 or 2, not at 5.

    ``table``: the displacement's amplitude and the width of its smoothing, and the largest shift of the three points,
    all in pixels, whatever the image's size.
    """

    family: ClassVar = "digital"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": tuple(
            (32 * a, 32 * b, 32 * c)
            for a, b, c in ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
        ),
        "64": tuple(
            (64 * a, 64 * b, 64 * c)
            for a, b, c in ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))
        ),
        "224": tuple(
            (244 * a, 244 * b, 244 * c)
            for a, b, c in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, float, float]) -> Draws:
        draws = {"points": randomness.uniform(randomness.fold(keys, 0), (3, 2))}
        if constants[0]:
            draws["across"] = randomness.uniform(randomness.fold(keys, 1), shape[1:])
            draws["down"] = randomness.uniform(randomness.fold(keys, 2), shape[1:])
        return draws

    def apply(self, x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
        amplitude, smoothing, shift = constants
        height, width = x.shape[-2:]
        rows = torch.arange(height, dtype=torch.float64, device=x.device)[:, None]
        columns = torch.arange(width, dtype=torch.float64, device=x.device)

        def stretched(x: Tensor, points: Tensor, *directions: Tensor) -> Tensor:
            a, b, c, d, e, f = _back((points.to(torch.float64) * 2 - 1) * shift, height, width)
            levels = sample(x, d * columns + (e * rows + f), a * columns + (b * rows + c), border="mirror")
            if directions:
                across, down = (
                    gaussian(way.to(torch.float64) * 2 - 1, smoothing, bound=1, border="reflect", truncate=3)
                    * amplitude
                    for way in directions
                )
                levels = sample(levels, down + rows, across + columns, border="reflect")
            return levels.to(torch.uint8)

        directions = (draws["across"], draws["down"]) if amplitude else ()
        return rowwise(stretched, x, draws["points"], *directions)


def _back(shifts: Tensor, height: int, width: int) -> Tensor:
    """(6, N, 1, 1): the affine map from where the three points are after ``shifts`` (N, 3, 2) to where they were.

    It takes (x, y) to (a x + b y + c, d x + e y + f).
    """
    x, y, arm = width // 2, height // 2, min(height, width) // 3
    before = shifts.new_tensor([[x + arm, y + arm], [x + arm, y - arm], [x - arm, y - arm]])
    after = before + shifts
    # The edges that meet in the second point were (0, 2 arm) and (-2 arm, 0): the inverse can be written down.
    (x, y), (ux, uy), (vx, vy) = (
        part.unbind(1) for part in (after[:, 1], after[:, 0] - after[:, 1], after[:, 2] - after[:, 1])
    )
    scale = 2 * arm / (ux * vy - uy * vx)
    a, b, d, e = uy * scale, -ux * scale, vy * scale, -vx * scale
    c, f = before[1, 0] - (a * x + b * y), before[1, 1] - (d * x + e * y)
    return torch.stack([a, b, c, d, e, f])[..., None, None]
