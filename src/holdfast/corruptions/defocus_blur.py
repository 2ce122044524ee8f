"""Defocus blur."""

from __future__ import annotations

from functools import lru_cache
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.corruptions.corruption import Corruption, Draws
from holdfast.foundation.registry import register


@register
class DefocusBlur(Corruption):
    """Blurs with a disk of radius r whose edge a Gaussian of standard deviation a has softened.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, section 3. Reproduced from the released code: the disk lies on a grid that ends at its rim, so that the
    softened disks of radius 8 and 10 weigh 1.013 and 1.011 and brighten the image; the small disks are a point, a plus
    or a square. The image is mirrored about its last pixels.

    ``table``: the radius r and the standard deviation a, in pixels.
    """

    family: ClassVar = "blur"
    standing: ClassVar = "test"
    table: ClassVar = {
        "32": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "64": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "224": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    }

    def draw(self, keys: Tensor, shape: tuple[int, int, int], constants: tuple[float, float]) -> Draws:
        return {}

    def apply(self, x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
        disk = _disk(*constants)
        reach = len(disk) // 2
        # Where a sum is a whole number, in flat areas and for a thirtieth of all values under 29 equal pixels, the
        # released code truncates it as the rounding of its kernel to float32 has it, up or down: so does the nudge. It
        # is above the rounding errors here, and below what tells sums apart: a plus of 5 pixels needs float64 for that.
        dtype, nudge = (torch.float64, 1e-9) if reach <= 2 else (torch.float32, 2e-4)
        nudge = nudge if float(disk.sum()) >= 1 else -nudge
        size = tuple(_smooth(side + 2 * reach) for side in x.shape[2:])
        spectrum = torch.fft.rfft2(disk.to(x.device, dtype), s=size)
        blurred = torch.empty_like(x)
        inside = tuple(slice(2 * reach, 2 * reach + side) for side in x.shape[2:])
        for image, out in zip(x, blurred, strict=True):  # an image fits a core's cache, a batch does not
            padded = functional.pad(image[None].to(dtype), (reach,) * 4, mode="reflect")[0]
            whole = torch.fft.irfft2(torch.fft.rfft2(padded, s=size).mul_(spectrum), s=size)
            out.copy_(whole[:, inside[0], inside[1]].add(nudge).clamp_(0, 255))
        return blurred


def _smooth(length: int) -> int:
    """The next length that has no prime factor above 5: such Fourier transforms are fast."""
    return next(n for n in count(length) if 2**20 * 3**13 * 5**9 % n == 0)


@lru_cache(maxsize=16)
def _disk(radius: float, alias: float) -> Tensor:
    """The kernel, float64: a disk, softened along both axes by 3 or 5 taps of a Gaussian, in float32 as there."""
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    place = torch.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).to(torch.float32)
    disk /= disk.sum()
    weights = torch.exp(-0.5 * (torch.arange(-taps, taps + 1, dtype=torch.float64) / alias) ** 2)
    weights = (weights / weights.sum()).to(torch.float32)
    for _ in range(2):
        disk = (functional.pad(disk[None], (taps, taps), mode="reflect")[0].unfold(1, 2 * taps + 1, 1) @ weights).T
    rim = reach - int((disk.amax(0) > 1e-12).nonzero()[0])
    return disk[reach - rim : reach + rim + 1, reach - rim : reach + rim + 1].to(torch.float64)
