"""JPEG and resizing against Pillow itself; warps, clouds, edges and distances against their definitions."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast.imaging import jpeg
from holdfast.imaging.edges import canny, distance
from holdfast.imaging.plasma import plasma, side_for
from holdfast.imaging.resample import bilinear, box
from holdfast.imaging.splashes import water
from holdfast.imaging.warp import sample


def levels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(*shape: int) -> Tensor:
    small = levels(*shape[:2], 4, 5).float()
    return torch.nn.functional.interpolate(small, shape[2:], mode="bicubic").clamp(0, 255).to(torch.uint8)


def by_hand(image: Tensor, quality: int) -> Tensor:
    """One image (C,H,W) through Pillow with its own defaults."""
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).reshape(pixels.shape).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (9, 17), (33, 47), (40, 24), (72, 81)])
def test_both_jpegs_are_pillows_to_the_bit(channels: int, size: tuple[int, int]) -> None:
    x = torch.cat([levels(1, channels, *size), smooth(2, channels, *size), levels(1, channels, *size) // 128 * 255])
    for quality in (1, 7, 25, 49, 50, 80, 95, 100):
        wanted = torch.stack([by_hand(image, quality) for image in x])
        assert torch.equal(jpeg.by_integers(x, quality), wanted)
        assert torch.equal(jpeg.by_pillow(x, quality), wanted)
        assert torch.equal(jpeg.compressed(x, quality), wanted)
    assert jpeg.compressed(x[:0], 50).shape == (0, channels, *size)


@pytest.mark.parametrize("size", [(32, 32), (31, 50), (64, 45)])
def test_box_is_pillows_to_the_bit(size: tuple[int, int]) -> None:
    x = levels(2, 3, *size)
    for target in [(int(side * c), int(other * c)) for side, other in [size] for c in (0.95, 0.75, 0.5, 0.3, 0.25)] + [
        (size[0] + 7, size[1] * 2),
        (size[0], size[1] - 3),
        (1, 1),
    ]:
        wanted = [
            np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BOX))
            for image in x.permute(0, 2, 3, 1).numpy()
        ]
        assert torch.equal(box(x, target), torch.from_numpy(np.stack(wanted)).permute(0, 3, 1, 2))


def test_bilinear_reads_between_the_nearest_pixels() -> None:
    x = levels(3, 40, 60)
    assert torch.equal(bilinear(x, (8, 12), 0.2), x[:, 2::5, 2::5])  # every fifth pixel's centre is a pixel's centre
    out = bilinear(x, (12, 18), 0.3)
    rows, columns = ((torch.arange(side, dtype=torch.float64) + 0.5) / 0.3 - 0.5 for side in (12, 18))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    wanted = sample(x[None], grid[0][None], grid[1][None], border="reflect")[0]
    assert (out - wanted).abs().max() <= 1


@pytest.mark.parametrize("border", ["mirror", "reflect"])
def test_a_warp_folds_back_what_lies_outside(border: str) -> None:
    x = levels(2, 3, 9, 14).float()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (30, 30), (30, 30)), "reflect" if border == "mirror" else "symmetric")
    rows = torch.arange(-30, 39, dtype=torch.float64)[:, None].expand(2, -1, 74)
    columns = torch.arange(-30, 44, dtype=torch.float64).expand(2, 69, -1)
    assert torch.equal(sample(x, rows, columns, border=border), torch.from_numpy(padded))  # type: ignore[arg-type]
    halves = sample(x, rows + 0.5, columns, border=border)[:, :, :-1]  # type: ignore[arg-type]
    assert torch.allclose(halves, torch.from_numpy((padded[:, :, 1:] + padded[:, :, :-1]) / 2))


def test_what_is_flat_stays_flat_in_a_warp() -> None:
    places = torch.rand(1, 50, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 90 - 30
    assert (sample(torch.full((1, 1, 20, 20), 255, dtype=torch.uint8), places, -places, border="mirror") == 255).all()


def test_clouds_span_their_range_and_roughen_as_decay_falls() -> None:
    side = side_for(50, 33)
    assert side == 64 and side_for(32, 32) == 32 and side_for(224, 200) == 256 and side_for(8, 8) == 8
    noise = torch.rand(4, side * side - 1, generator=torch.Generator().manual_seed(0))
    rough = []
    for decay in (1.4, 2.0, 3.0):
        clouds = plasma(noise, side, decay)
        assert clouds.shape == (4, side, side)
        assert torch.equal(clouds.amin((1, 2)), torch.zeros(4)) and torch.equal(clouds.amax((1, 2)), torch.ones(4))
        # On a torus: the step over the edge is no larger than others.
        rough.append((clouds - clouds.roll(1, 1)).abs().mean())
        assert (clouds[:, 0] - clouds[:, -1]).abs().mean() < 2 * rough[-1]
    assert rough[0] > rough[1] > rough[2]


def test_distances_are_the_shortest_ways() -> None:
    edges = torch.rand(3, 30, 41, generator=torch.Generator().manual_seed(0)) < 0.004
    edges[2] = False
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(41), indexing="ij")
    wanted = torch.full((3, 30, 41), 20.0)
    for image, row, column in edges.nonzero().tolist():
        short, long = torch.minimum(down := (rows - row).abs(), right := (columns - column).abs()), down.maximum(right)
        knights = torch.minimum(short, long - short)
        way = 2.1969 * knights + 1.4 * (short - knights) + (long - short - knights)
        wanted[image] = torch.minimum(wanted[image], way)
    assert edges.any() and torch.allclose(distance(edges, 20), wanted, atol=1e-5)


def test_edges_follow_a_disc_and_noise_has_none() -> None:
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    away = ((rows - 19.5) ** 2 + (columns - 19.5) ** 2).sqrt()
    disc = (away < 12).to(torch.uint8)[None] * 200
    edges = canny(disc, 50, 150)[0]
    assert (away[edges] - 12).abs().max() < 1.5 and int(edges.sum()) > 2 * math.pi * 12 * 0.8
    assert not canny(levels(1, 40, 40) // 40, 50, 150).any()
    # A weak edge counts where it goes on from a strong one.
    step = torch.zeros(2, 12, 12, dtype=torch.uint8)
    step[:, :, 6:] = 20
    step[1, :6, 6:] = 200
    found = canny(step, 50, 150)
    assert not found[0].any() and found[1, 8:11].any(1).all()


def test_where_there_is_no_liquid_there_is_no_water() -> None:
    layers = torch.zeros(2, 16, 16, dtype=torch.uint8)
    layers[1, 4:9, 5:11] = 180
    shine = water(layers)
    assert torch.equal(shine[0], torch.zeros(16, 16))
    assert float(shine[1].max()) == 1 and not shine[1][layers[1] == 0].any()
