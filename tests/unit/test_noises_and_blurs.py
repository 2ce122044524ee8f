"""Noises draw from the distributions that they name; blurs do what their definitions say, written out plainly."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from holdfast.corruptions.corruption import SEVERITIES, Corruption, draw_keys
from holdfast.foundation import registry
from holdfast.imaging.zoom import clipped_zoom, sum_of_zooms

VARIANTS = ("32", "64", "224")


def corruption(name: str) -> Corruption:
    return registry.load("corruption", name)()


def noisy(name: str, level: int, constants: object, count: int = 1 << 17) -> Tensor:
    """``count`` values of one level, corrupted with the corruption's own draws."""
    kind = corruption(name)
    x = torch.full((8, 1, 8, count // 64), level, dtype=torch.uint8)
    return kind.apply(x, constants, kind.draw(draw_keys(0, name, 1, torch.arange(8)), x.shape[1:], constants)).flatten()


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
@pytest.mark.parametrize("level", [30, 128, 220])
def test_normal_noise_has_its_moments_and_its_ends(name: str, level: int) -> None:
    for variant in VARIANTS:
        for constant in corruption(name).table[variant][::2]:
            spread = 255 * constant if name == "gaussian_noise" else level * constant
            out = noisy(name, level, constant).double()
            below = stats.norm.cdf(np.arange(1, 256), level, spread)  # chance of a result below 1, 2, ...
            shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
            mean, levels = shares @ np.arange(256), np.arange(256)
            std = math.sqrt(shares @ (levels - mean) ** 2)
            noise = 1 / math.sqrt(len(out))
            assert abs(float(out.mean()) - mean) < 4 * std * noise
            assert abs(float(out.std()) - std) < 4 * std * noise + 1e-9
            for end in (0, 255):
                share = shares[end]
                assert abs(float((out == end).double().mean()) - share) < 4 * math.sqrt(share) * noise + 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_shot_noise_counts_photons(variant: str) -> None:
    for photons in corruption("shot_noise").table[variant]:
        for level in (1, 40, 130, 254):
            seen = np.bincount(noisy("shot_noise", level, photons).numpy(), minlength=256)
            counts = np.arange(photons + 1)
            chances = stats.poisson.pmf(counts, level / 255 * photons)
            chances[-1] = 1 - chances[:-1].sum()
            wanted = np.bincount((counts / photons * 255).astype(np.uint8), weights=chances, minlength=256) * seen.sum()
            assert seen[wanted == 0].sum() == 0
            often = wanted > 5
            found = np.append(seen[often], seen[~often].sum())
            hoped = np.append(wanted[often], wanted[~often].sum() + 1e-9)
            assert stats.chisquare(found, hoped / hoped.sum() * found.sum()).pvalue > 1e-5
        assert int(noisy("shot_noise", 0, photons).max()) == 0


def test_impulses_hit_every_channel_for_itself_half_of_them_dark() -> None:
    kind = corruption("impulse_noise")
    x = torch.full((4, 3, 128, 128), 100, dtype=torch.uint8)
    for constant in (0.01, 0.27):
        out = kind.apply(
            x, constant, kind.draw(draw_keys(0, "impulse_noise", 1, torch.arange(4)), x.shape[1:], constant)
        )
        assert set(out.unique().tolist()) == {0, 100, 255}
        hit = (out != 100).double()
        for rate, share in ((constant, hit.mean()), (constant / 2, (out == 0).double().mean())):
            assert abs(float(share) - rate) < 4 * math.sqrt(rate / x.numel())
        both = float((hit[:, 0] * hit[:, 1]).mean())
        assert abs(both - constant**2) < 4 * math.sqrt(constant**2 / hit[:, 0].numel())


@pytest.mark.parametrize(("reach", "passes"), [(1, 1), (1, 3), (2, 2), (4, 2)])
def test_glass_moves_pixels_one_after_the_other(reach: int, passes: int) -> None:
    kind = corruption("glass_blur")
    height, width = 23, 17
    x = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    constants = (0.05, reach, passes)  # so narrow that nothing is blurred
    draws: Mapping[str, Tensor] = kind.draw(
        draw_keys(0, "glass_blur", 1, torch.arange(2)), (3, height, width), constants
    )
    assert set(draws["offset"].unique().tolist()) == set(range((2 * reach) ** 2))
    wanted = x.clone()
    for row in range(2):
        for number in range(passes):
            for h in range(height - reach, reach, -1):
                for w in range(width - reach, reach, -1):
                    down, right = divmod(int(draws["offset"][row, number, h, w]), 2 * reach)
                    wanted[row, :, h, w] = wanted[row, :, h + down - reach, w + right - reach]
    assert torch.equal(kind.apply(x, constants, draws), wanted)


def test_a_disk_brightens_where_its_softened_rim_is_reflected() -> None:
    kind = corruption("defocus_blur")
    flat = torch.full((1, 1, 112, 112), 200, dtype=torch.uint8)
    brightness = [int(kind.apply(flat, constants, {})[0, 0, 50, 50]) for constants in kind.table["224"]]
    assert brightness[3:] == [202, 202] and all(level in (199, 200) for level in brightness[:3])
    point = torch.zeros(1, 1, 112, 112, dtype=torch.uint8)
    point[0, 0, 50, 60] = 255
    disk = kind.apply(point, (3, 0.1), {})[0, 0]
    rows, columns = torch.meshgrid(torch.arange(112) - 50, torch.arange(112) - 60, indexing="ij")
    assert torch.equal(disk > 0, rows**2 + columns**2 <= 9) and int(disk.max()) == 255 // 29


def test_zoom_blur_is_the_mean_of_the_image_and_its_zooms() -> None:
    kind = corruption("zoom_blur")
    x = torch.randint(0, 256, (2, 3, 40, 33), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for severity in SEVERITIES:
        factors = kind.table["32"][severity - 1]
        assert factors[0] == 1 and len(factors) == (7, 12, 16, 21, 26)[severity - 1]
        total = sum(clipped_zoom(x.double(), factor) for factor in factors)
        assert (sum_of_zooms(x, factors) - total).abs().max() < 1e-3 * len(factors)
        out = kind.apply(x, factors, {})
        assert (out - (total + x) / (len(factors) + 1)).abs().max() < 1 + 1e-3
    flat = torch.full((1, 3, 40, 33), 255, dtype=torch.uint8)
    assert torch.equal(kind.apply(flat, kind.table["32"][4], {}), flat)


def test_motion_runs_to_both_sides_of_the_horizontal() -> None:
    kind = corruption("motion_blur")
    angle = kind.draw(draw_keys(0, "motion_blur", 1, torch.arange(4000)), (3, 32, 32), (6, 1.0))["angle"]
    assert stats.kstest(angle.numpy(), "uniform", (-45, 90)).pvalue > 1e-4
