"""Diverse inputs: images shrunk at random and put somewhere on black, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from holdfast import keys
from holdfast.ascent.momentum import Gathering, View
from holdfast.foundation.errors import BadValue


def shrunk_at_random(probability: float, smallest: float) -> View:
    """The view that shrinks a row with some probability, drawn anew at every step, but never at the first.

    Source: Xie et al., "Improving transferability of adversarial examples with input diversity" (CVPR 2019), section 3.2:
    a size drawn from [299, 330) on a black canvas of 330. Departures: the canvas has the image's own size, which a net with
    a dense layer needs, so that the share of it that is filled is the same; sizes differ between rows.

    Args:
        probability: how often a row sees its image shrunk.
        smallest: the smallest share of height and width that is left.

    Raises:
        BadValue: a probability outside [0, 1] or a share outside (0, 1].
    """
    if not 0 <= probability <= 1:
        raise BadValue(f"probability is {probability!r}; it must be from 0 to 1", hint="the paper uses 0.5")
    if not 0 < smallest <= 1:
        raise BadValue(
            f"smallest is {smallest!r}; it must be above 0, at most 1", hint="the paper uses 299/330 = 0.906"
        )

    def view(state: Gathering) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        chance, size, *places = keys.uniform(keys.fold(state.rows.key, state.count), (4,), dtype=torch.float64).T

        def change(x: Tensor) -> Tensor:
            sizes, corners = [], []
            for length, place in zip(x.shape[2:], places):
                least = max(1, int(smallest * length))
                sizes.append(least + (size * (length - least)).floor())
                corners.append((place * (length - sizes[-1] + 1)).floor())
            return shrunk(x, sizes, corners)

        # The first evaluation is that of the start itself, which is thereby known and can be kept.
        return (chance >= probability) | (state.count == 0), change

    return view


def shrunk(x: Tensor, sizes: Sequence[Tensor], corners: Sequence[Tensor]) -> Tensor:
    """Each image of ``x`` shrunk to so many rows and columns, (R,) each, bilinearly, its corner put there; 0 elsewhere."""
    down, along = (
        # Where each value along the axis comes from, -1 to 1 from edge to edge.
        2 * (torch.arange(length, device=x.device) + 0.5 - corner[:, None]) / size[:, None] - 1
        for length, size, corner in zip(x.shape[2:], sizes, corners)
    )
    shape = (len(x), *x.shape[2:])
    grid = torch.stack([along[:, None, :].expand(shape), down[:, :, None].expand(shape)], 3).to(x.dtype)
    return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
