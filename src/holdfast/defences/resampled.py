"""Images read at other places, with a gradient: what turns, crops and resizes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (R, C, H, W) of floats read bilinearly at ``rows`` and ``columns``, (R, H', W') each: (R, C, H', W').

    Places are in pixels; whole numbers are the pixels' centres. What lies within half a pixel of the edge has the edge's
    value, what lies beyond is black. Right up to the rounding of the places, 1e-7 of the side.
    """
    height, width = x.shape[-2:]
    rows, columns = torch.broadcast_tensors(rows.to(x.dtype), columns.to(x.dtype))
    inside = (rows > -0.5) & (rows < height - 0.5) & (columns > -0.5) & (columns < width - 0.5)
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], 3)
    read = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return read * inside[:, None]


def stretched(size: Tensor, corner: Tensor, length: int, onto: int) -> Tensor:
    """Where along an axis of ``length`` pixels each of ``onto`` outputs is read, (R, onto), so that the axis fills ``size``
    outputs from ``corner`` on, (R,) each: half-pixel centres. Outside, half a pixel beyond the edge or more."""
    place = torch.arange(onto, device=size.device, dtype=size.dtype) - corner[:, None]
    return (place + 0.5) * (length / size[:, None]) - 0.5
