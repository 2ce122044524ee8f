"""AugMix's augmentation: chains of plain image operations, mixed with one another and with the image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import keys
from holdfast.imaging.rowwise import rowwise

TABLES = ("autocontrast", "equalize", "posterize", "solarize")
"""The operations that map each level of a channel to another one."""

MAPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""The operations that move pixels, by an affine map."""

OPERATIONS = (*TABLES, *MAPS)
"""None of them is of the family of a test corruption: no colour, contrast, brightness, sharpness, noise or blur."""

DEPTH = 3
"""A chain has 1 to that many operations."""

_LIFT = 2.0**-12  # added before levels are truncated: more than rounding takes away from a weighted mean


class Draws(NamedTuple):
    """What is drawn for N images of ``width`` chains each.

    ``operation`` and ``strength`` (N, width, DEPTH): numbers of `OPERATIONS`, and from 0.1 to the severity in magnitude,
    float64, the sign being the direction of a map. ``depth`` (N, width): how many of a chain are done. ``weight``
    (N, width): of each chain, 1 in sum. ``share`` (N,): of the mixed chains in the result.
    """

    operation: Tensor
    strength: Tensor
    depth: Tensor
    weight: Tensor
    share: Tensor


def draw(key: Tensor, *, severity: float = 3.0, width: int = 3) -> Draws:
    """What `augmix` draws for the keys (N,): of each image by its key alone."""
    operation, level, sign = keys.uniform(key, (3, width, DEPTH), dtype=torch.float64).unbind(1)
    depth, exponential, share = keys.uniform(keys.fold(key, 1), (3, width)).unbind(1)
    exponential = -torch.log1p(-exponential) + 1e-12  # normalised, they are of the flat Dirichlet distribution
    return Draws(
        operation=(operation * len(OPERATIONS)).to(torch.int64),
        strength=(0.1 + level * (severity - 0.1)) * torch.where(sign > 0.5, -1.0, 1.0),
        depth=1 + (depth * DEPTH).to(torch.int64),
        weight=exponential / exponential.sum(1, keepdim=True),
        share=share[:, 0],
    )


def augmix(x: Tensor, key: Tensor, *, severity: float = 3.0, width: int = 3, draws: Draws | None = None) -> Tensor:
    """Images (N,C,H,W) floats in [0, 1], augmented: the same shape and dtype, in [0, 1], with no gradient.

    Each image goes through ``width`` chains of 1 to 3 random operations, whose results are mixed by weights from a flat
    Dirichlet distribution, and the mixture with the image by a share from a flat Beta distribution. An image and its key
    decide its result, in any batch.

    Source: Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty" (ICLR
    2020), algorithm 1, and the constants of the authors' code. As there, chains work on 8 bits, as Pillow does: to the
    level, except that a moved pixel can differ by one. Quirks kept: rotations and translations are of whole degrees and
    pixels, shears leave the first row or column where it is, and black comes in.
    Departures: translations go by the image's own height and width, which were 32 there; grey images, too.

    Args:
        x: the images.
        key: (N,) int64.
        severity: of each operation, above 0.1 and up to 10.
        width: how many chains.
        draws: in place of what ``key`` draws.
    """
    found = draws or draw(key, severity=severity, width=width)
    x = x.detach()
    width = found.depth.shape[1]
    operation, strength, depth = (part.flatten(0, 1) for part in (found.operation, found.strength, found.depth))
    order = depth.argsort(descending=True)  # the chains that go on come first, in one piece
    operation, strength = operation[order], strength[order]
    chains = rowwise(_levels, x).index_select(0, order // width)
    for step in range(found.operation.shape[2]):
        active = int((depth > step).sum())
        chains[:active] = operate(chains[:active], operation[:active, step], strength[:active, step])
    chains = chains.index_select(0, order.argsort()).view(len(x), width, *x.shape[1:])
    return rowwise(_mixture, x, chains, found.weight, found.share)


def _levels(x: Tensor) -> Tensor:
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


def _mixture(x: Tensor, chains: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    """Images (N,C,H,W) mixed with their chains (N,width,C,H,W) uint8."""
    share = share.to(x.dtype)
    out = x * (1 - share).view(-1, 1, 1, 1)
    for number, each in enumerate(weight.to(x.dtype).unbind(1)):
        out += chains[:, number] * (share * each / 255).view(-1, 1, 1, 1)
    return out.clamp_(0, 1)


def operate(levels: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Images (R,C,H,W) uint8, each after its own operation: numbers of `OPERATIONS` and signed strengths, (R,)."""
    order = operation.argsort()  # rows of one operation lie in one piece: no scattering
    counts = torch.bincount(operation.clamp(max=len(TABLES)), minlength=len(TABLES) + 1).tolist()
    operation, strength = operation[order], strength[order]
    *parts, moved = levels.index_select(0, order).split(counts)
    *strengths, signed = strength.split(counts)
    for number, tables in enumerate((_autocontrast, _equalize, _posterize, _solarize)):
        images = parts[number].flatten(2)
        table = tables(images, strengths[number].abs().view(-1, 1, 1)).clamp_(0, 255).to(torch.uint8)
        table = table.expand(*images.shape[:2], 256)
        parts[number] = table.gather(2, images.to(torch.int64)).view_as(parts[number])
    maps = _maps(operation[len(operation) - len(moved) :], signed, (levels.shape[2], levels.shape[3]))
    return torch.cat([*parts, rowwise(_moved, moved, maps)]).index_select(0, order.argsort())


def _autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    """The darkest level of a channel becomes 0 and the lightest 255. A channel of one level stays."""
    low, high = (part.unsqueeze(2).to(torch.float64) for part in images.aminmax(dim=2))
    flat = high == low
    scale = torch.full_like(low, 255) / torch.where(flat, 255, high - low)  # 255 / x would be 255 times a reciprocal
    return _ramp(images) * scale - torch.where(flat, 0, low) * scale


def _equalize(images: Tensor, strength: Tensor) -> Tensor:
    """A channel's levels are spread by their frequency; in whole steps of its pixels over 255, or not at all."""
    count, channels, size = images.shape
    planes = torch.arange(count * channels, device=images.device).mul_(256).view(count, channels, 1)
    histogram = torch.bincount((images + planes).flatten(), minlength=256 * count * channels).view(count, channels, 256)
    last = histogram.gather(2, images.amax(2, keepdim=True).to(torch.int64))
    step = (size - last) // 255
    before = histogram.cumsum(2) - histogram
    return torch.where(step > 0, (step // 2 + before) // step.clamp(min=1), _ramp(images).to(torch.int64))


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Only the 4 highest bits of a level are kept, or fewer."""
    unit = 2 ** (4 + (strength * 4 / 10).to(torch.int64))
    return _ramp(images).to(torch.int64) // unit * unit


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Levels from a threshold on are turned around."""
    ramp = _ramp(images)
    return torch.where(ramp < 256 - (strength * 256 / 10).trunc(), ramp, 255 - ramp)


def _ramp(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.float64, device=images.device)


def _maps(operation: Tensor, strength: Tensor, size: tuple[int, int]) -> Tensor:
    """(R,6) float64: from where a pixel comes out to where it is read, by rows."""
    rotate, shear_x, shear_y, translate_x, translate_y = (
        torch.where(operation == len(TABLES) + number, strength, 0) for number in range(len(MAPS))
    )
    y, x = (side / 2 for side in size)
    angle = -(rotate * 30 / 10).trunc() * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    right, down = ((part * (side / 3) / 10).trunc() for part, side in ((translate_x, size[1]), (translate_y, size[0])))
    return torch.stack(
        [
            *(cos, sin + shear_x * 0.3 / 10, x - cos * x - sin * y + right),
            *(shear_y * 0.3 / 10 - sin, cos, y + sin * x - cos * y + down),
        ],
        1,
    )


def _moved(levels: Tensor, maps: Tensor) -> Tensor:
    """Images (R,C,H,W) uint8, each read bilinearly at the places of its affine map (R,6), truncated, black outside.

    As Pillow does it: what is read within half a pixel of the edge is the edge's value.
    """
    high, wide = levels.shape[2:]
    a, b, c, d, e, f = maps.to(torch.float32).view(-1, 6, 1, 1).unbind(1)
    across = torch.arange(0.5, wide, device=levels.device)
    down = torch.arange(0.5, high, device=levels.device)[:, None]
    u, v = a * across + (b * down + c), d * across + (e * down + f)
    inside = (u >= 0) & (u < wide) & (v >= 0) & (v < high)
    u, v = u.sub_(0.5).clamp_(0, wide - 1).where(inside, -2), v.sub_(0.5).clamp_(0, high - 1)
    # On planes whose sides are powers of 2 whole and half pixels survive the unit of grid_sample, float32 in [-1, 1].
    tall, broad = (1 << (side - 1).bit_length() for side in (high, wide))
    planes = F.pad(levels.to(torch.float32), (0, broad - wide, 0, tall - high))
    grid = torch.stack([u.add_(0.5).mul_(2 / broad).sub_(1), v.add_(0.5).mul_(2 / tall).sub_(1)], 1)
    found = F.grid_sample(planes, grid.permute(0, 2, 3, 1), align_corners=False, padding_mode="zeros")
    return found[..., :high, :wide].add_(_LIFT).to(torch.uint8)
