"""Diverse inputs: images shrunk at random and put somewhere on black, row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
            for dim, place in zip((2, 3), places):
                length = x.shape[dim]
                least = max(1, int(smallest * length))
                left = least + (size * (length - least)).floor()
                x = shrunk(x, dim, left, (place * (length - left + 1)).floor())
            return x

        # The first evaluation is that of the start itself, which is thereby known and can be kept.
        return (chance >= probability) | (state.count == 0), change

    return view


def shrunk(x: Tensor, dim: int, size: Tensor, place: Tensor) -> Tensor:
    """Each image of ``x`` shrunk along ``dim`` to ``size`` (R,) values, bilinearly, from ``place`` (R,) on; 0 elsewhere."""
    length = x.shape[dim]
    shape = [-1, 1, 1, 1]
    shape[dim] = length
    pixel = torch.arange(length, device=x.device)
    source = (pixel + 0.5 - place[:, None]) * (length / size[:, None]) - 0.5
    lower = source.floor()
    found = torch.zeros_like(x)
    for index, share in ((lower, 1 - (source - lower)), (lower + 1, source - lower)):
        weight = torch.where((index >= 0) & (index < length), share, 0).to(x.dtype).view(shape)
        where = index.clamp(0, length - 1).long().view(shape).expand_as(x)
        found = found + weight * x.gather(dim, where)
    return found
