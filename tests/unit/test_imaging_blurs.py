"""Gaussian and motion blur and the clipped zoom, against their definitions, written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holdfast.imaging.gaussian import Border, gaussian
from holdfast.imaging.motion import motion
from holdfast.imaging.zoom import clipped_zoom


def levels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def outside(index: int, side: int, border: Border) -> int:
    if border == "nearest":
        return min(max(index, 0), side - 1)
    index %= 2 * side
    return min(index, 2 * side - 1 - index)


@pytest.mark.parametrize(("sigma", "truncate"), [(0.05, 4.0), (0.4, 4.0), (1.5, 4.0), (9.0, 3.0)])
@pytest.mark.parametrize("border", ["nearest", "reflect"])
def test_gaussian_is_the_sampled_kernel_along_both_axes(sigma: float, truncate: float, border: Border) -> None:
    x = levels(1, 11, 70)
    radius = int(truncate * sigma + 0.5)
    weights = [math.exp(-((offset / sigma) ** 2) / 2) for offset in range(-radius, radius + 1)]
    wanted = x.double()
    for axis in (1, 2):
        side = wanted.shape[axis]
        lines = wanted.movedim(axis, 0)
        rows = [
            sum(w * lines[outside(i + k - radius, side, border)] for k, w in enumerate(weights)) for i in range(side)
        ]
        wanted = torch.stack(rows).movedim(0, axis) / sum(weights)
    out = gaussian(x.double(), sigma, bound=256, border=border, truncate=truncate)
    assert out.dtype == torch.float64 and (out - wanted).abs().max() < 1e-4
    assert torch.equal(gaussian(x, sigma, bound=256, border=border, truncate=truncate), out.to(torch.uint8))


def test_gaussian_has_the_same_bits_in_any_order_of_sums_and_keeps_what_is_flat() -> None:
    x = torch.rand(3, 40, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flipped = gaussian(x.flip(1, 2), 2.0, bound=1).flip(1, 2)
    assert torch.equal(gaussian(x, 2.0, bound=1), flipped)
    assert torch.equal(gaussian(x.transpose(1, 2), 2.0, bound=1)[1], gaussian(x[1].T, 2.0, bound=1))
    flat = torch.full((1, 30, 30), 255)
    assert torch.equal(gaussian(flat, 3.0, bound=256), flat.double())


def test_motion_is_a_weighted_sum_along_a_line() -> None:
    x, angles = levels(3, 1, 12, 15), torch.tensor([-31.0, 0.0, 130.0])  # away from ties
    radius, sigma = 4, 2.0
    weights = [math.exp(-(tap**2) / (2 * sigma**2)) for tap in range(2 * radius + 1)]
    for row, angle in enumerate(angles.double().deg2rad().tolist()):
        for h in range(12):
            for w in range(15):
                total = 0.0
                for tap, weight in enumerate(weights):
                    down = min(max(h + math.ceil(tap * math.sin(angle) - 0.5), 0), 11)
                    right = min(max(w + math.ceil(tap * math.cos(angle) - 0.5), 0), 14)
                    total += weight / sum(weights) * float(x[row, 0, down, right])
                assert abs(float(motion(x.float(), radius, sigma, angles)[row, 0, h, w]) - total) < 0.02
                assert float(motion(x, radius, sigma, angles)[row, 0, h, w]) in (
                    int(total - 0.02),
                    int(total),
                    int(total + 0.02),
                )


def test_clipped_zoom_stretches_the_centre() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 20, 32)
    assert torch.equal(clipped_zoom(ramp, 1.0), ramp)
    for factor in (1.06, 1.25, 2.0, 3.0):
        crop = math.ceil(32 / factor)
        size = round(crop * factor)
        inside = (32 - crop) // 2 + (torch.arange(32) + (size - 32) // 2) * (crop - 1) / (size - 1)
        assert (clipped_zoom(ramp, factor) - inside).abs().max() < 1e-4
        assert torch.equal(clipped_zoom(ramp.mT, factor), clipped_zoom(ramp, factor).mT)
