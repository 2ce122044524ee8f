"""JPEG at a quality, there and back: with Pillow, and the same bits in plain torch for any device.

Source: ITU-T T.81, annexes A and K; the choices it leaves open are libjpeg's: 16-bit colour constants, chroma at half
size (averaged with alternating bias, brought back with a triangle filter), and the integer DCT "islow" of Loeffler,
Ligtenberg and Moschytz (ICASSP 1989) with 13-bit constants. That DCT is linear up to one rounding shift per pass, so
each pass is one 8 x 8 matrix of integers; float64 holds all sums exactly.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
_DCT = (  # the first half of each row; the second mirrors it, with the sign turned in odd rows
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
_SMALL = 64 * 64
"""Pixels of an image up to which the batch is faster on a CPU than Pillow; the bits are the same."""


def compressed(x: Tensor, quality: int) -> Tensor:
    """Images (N,C,H,W) uint8, C = 1 or 3, as they come back from JPEG of ``quality`` 1 to 100, chroma at half size."""
    by_the_image = x.device.type == "cpu" and x.shape[2] * x.shape[3] > _SMALL
    return by_pillow(x, quality) if by_the_image else by_integers(x, quality)


def by_pillow(x: Tensor, quality: int) -> Tensor:
    """`compressed`, one image after the other through Pillow, on the CPU."""
    out = torch.empty_like(x)
    for planes, into in zip(x.numpy(), out.numpy()):
        bands = [Image.fromarray(plane) for plane in planes]  # no turning of the axes, which costs as much as the codec
        image, file = Image.merge("RGB", bands) if len(bands) == 3 else bands[0], io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        for band, plane in zip(Image.open(file, formats=("JPEG",)).split(), into):
            plane[:] = np.asarray(band)
    return out


def by_integers(x: Tensor, quality: int) -> Tensor:
    """`compressed`, in batches on any device."""
    *_, height, width = x.shape
    luma, chroma = (_table(base, quality).to(x.device) for base in (_LUMA, _CHROMA))
    if x.shape[1] == 1:
        return _quantised(_padded(x, 8, 8).to(torch.int32), luma)[..., :height, :width].to(torch.uint8)
    y, *colours = _to_ycc(x.to(torch.int32).unbind(1))
    y = _quantised(_padded(y[:, None], 8, 8), luma)[..., :height, :width]
    half = _quantised(_padded(_halved(torch.stack(colours, 1)), 8, 8), chroma)
    half = half[..., : -(-height // 2), : -(-width // 2)]
    return _to_rgb(y[:, 0], *_doubled(half)[..., :height, :width].unbind(1))


@lru_cache(maxsize=64)
def _table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """(8, 8) steps of quantisation, float64."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255).to(torch.float64)


def _to_ycc(rgb: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    r, g, b = rgb
    half, middle = 1 << 15, (128 << 16) + (1 << 15) - 1
    y = (19595 * r + 38470 * g + 7471 * b + half) >> 16
    cb = (-11059 * r - 21709 * g + 32768 * b + middle) >> 16
    cr = (32768 * r - 27439 * g - 5329 * b + middle) >> 16
    return y, cb, cr


def _to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    cb, cr, half = cb.to(torch.int32) - 128, cr.to(torch.int32) - 128, 1 << 15
    r = y + ((91881 * cr + half) >> 16)
    g = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    b = y + ((116130 * cb + half) >> 16)
    return torch.stack([r, g, b], 1).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=1)
def _dct() -> Tensor:
    """(8, 8), 2**13 times the DCT times sqrt(8) in whole numbers, float64."""
    left = torch.tensor(_DCT, dtype=torch.float64)
    turned = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
    return torch.cat([left, left.flip(1) * turned], 1)


def _rounded(x: Tensor, bits: int) -> Tensor:
    """``x / 2**bits`` to the nearest whole number, halves up."""
    return x.mul_(2.0**-bits).add_(0.5).floor_()


def _quantised(x: Tensor, table: Tensor) -> Tensor:
    """Samples (N,C,H,W) in 0 to 255, H and W multiples of 8, through the DCT, the steps of ``table``, and back."""
    dct = _dct().to(x.device)
    rows = _rounded((x.to(torch.float64) - 128).unflatten(-1, (-1, 8)) @ dct.T, 11)
    columns = _rounded(dct @ rows.flatten(-2).unflatten(-2, (-1, 8)), 15).unflatten(-1, (-1, 8))
    steps = table[:, None]
    # The coefficients are 8 times the true ones here; halves are rounded away from zero.
    whole = (columns.abs() + 4 * steps).div_(8 * steps).floor_().mul_(steps).copysign_(columns).flatten(-2)
    columns = _rounded(dct.T @ whole, 11).flatten(-3, -2).unflatten(-1, (-1, 8))
    rows = _rounded(columns @ dct, 18).flatten(-2)
    return rows.add_(128).clamp_(0, 255).to(torch.int16)


def _padded(x: Tensor, high: int, wide: int) -> Tensor:
    """The edges repeated until the height is a multiple of ``high`` and the width one of ``wide``."""
    *_, height, width = x.shape
    if height % high == width % wide == 0:
        return x
    rows = torch.arange(height + -height % high, device=x.device).clamp(max=height - 1)
    columns = torch.arange(width + -width % wide, device=x.device).clamp(max=width - 1)
    return x[..., rows[:, None], columns]


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down after adding 1 and 2 in turn; whole blocks wide, not yet whole blocks high."""
    x = _padded(x, 2, 16)
    total = x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]
    return (total + 1 + torch.arange(total.shape[-1], device=x.device, dtype=torch.int32) % 2) >> 2


def _doubled(x: Tensor) -> Tensor:
    """Twice as high and wide: each pixel takes 3/4 of the nearer and 1/4 of the farther one along each axis."""
    above, below = torch.cat([x[..., :1, :], x[..., :-1, :]], -2), torch.cat([x[..., 1:, :], x[..., -1:, :]], -2)
    rows = torch.stack([3 * x + above, 3 * x + below], -2).flatten(-3, -2)
    left, right = torch.cat([rows[..., :1], rows[..., :-1]], -1), torch.cat([rows[..., 1:], rows[..., -1:]], -1)
    return (torch.stack([3 * rows + left + 8, 3 * rows + right + 7], -1) >> 4).flatten(-2)
