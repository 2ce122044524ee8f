"""Warps of whole batches against Pillow itself, and where they must change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast.imaging.geometry import Matrix, about_centre, affine, projective, shift

SIZES = [(32, 32), (33, 47), (8, 20), (112, 90)]


def noise(size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def by_pillow(x: Tensor, matrix: Matrix) -> Tensor:
    size = (x.shape[3], x.shape[2])
    images = [Image.fromarray(each) for each in x.permute(0, 2, 3, 1).numpy()]
    found = [
        np.asarray(each.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)) for each in images
    ]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_affine_is_pillows(size: tuple[int, int]) -> None:
    x = noise(size)
    matrices = [about_centre(size, angle=angle) for angle in (-15, -7, 3, 100)]
    matrices += [about_centre(size, scale=scale) for scale in (0.4, 0.8, 1.1, 1.3)]
    matrices += [about_centre(size, shear=12), (0.913, 0.127, 3.31, -0.219, 1.103, -2.73)]
    found = affine(x, matrices)
    for index, matrix in enumerate(matrices):
        apart = (found[:, index].int() - by_pillow(x, matrix).int()).abs()
        # Weighted means that are whole numbers: where Pillow truncates a little less than that, it is a level lower.
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.03


@pytest.mark.parametrize("size", SIZES)
def test_what_is_in_its_place_or_flat_stays_as_it_is(size: tuple[int, int]) -> None:
    x = noise(size)
    for moved in (
        affine(x, [about_centre(size)])[:, 0],
        projective(x, [(1, 0, 0, 0, 1, 0, 0, 0, 1)])[:, 0],
        shift(x, 0),
    ):
        assert torch.equal(moved, x)
    flat = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 1, *size)
    enlarged = affine(flat, [about_centre(size, scale=1.2)])[:, 0]
    assert torch.equal(enlarged, flat)
    assert torch.equal(
        projective(flat, [(0.8, 0, 1.7, 0, 0.8, 0.1, 0, 0, 1)])[:, 0, :, 1:-1, 1:-1], flat[..., 1:-1, 1:-1]
    )


def test_a_shift_moves_columns_and_brings_in_black() -> None:
    x = noise((4, 6))
    assert torch.equal(shift(x, 2)[..., 2:], x[..., :-2]) and not shift(x, 2)[..., :2].any()
    assert torch.equal(shift(x, -5)[..., :1], x[..., 5:]) and not shift(x, -5)[..., 1:].any()
    assert not shift(x, 9).any() and not shift(x, -9).any()
    assert torch.equal(affine(x, [(1, 0, -2, 0, 1, 0)])[:, 0], shift(x, 2))


def test_a_projective_map_without_depth_is_an_affine_one() -> None:
    x = noise((24, 24))
    turn = math.radians(11)
    cos, sin = math.cos(turn), math.sin(turn)
    a, b, d, e = cos, sin, -sin, cos
    middle = 12 - a * 12 - b * 12, 12 - d * 12 - e * 12
    found = affine(x, [(a, b, middle[0], d, e, middle[1])])[:, 0].int()
    # The one has the first pixel's centre at 0.5, the other at 0.
    whole = 11.5 - a * 11.5 - b * 11.5, 11.5 - d * 11.5 - e * 11.5
    other = projective(x, [(a, b, whole[0], d, e, whole[1], 0, 0, 1)])[:, 0].int()
    apart = (found - other).abs()[..., 4:-4, 4:-4]
    assert apart.max() <= 10 and apart.float().mean() < 2  # 1/32 of a pixel, at edges of up to 255 levels
