"""Which images of a pool an image is mixed with: labels and places, drawn by keys.

Row by row: what an image draws depends on its key, its predicted class and the pool alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from holdfast import keys
from holdfast.foundation.registry import pick
from holdfast.imaging.pool import Pool

LABEL = keys.number("partner's label")
PLACE = keys.number("partner's place")

Sampling = Callable[..., Tensor]
"""``(pool, predicted (B,), key (B,), num, *, others)`` -> places in the pool, (B, num) int64."""


def independent(pool: Pool, predicted: Tensor, key: Tensor, num: int, *, others: bool) -> Tensor:
    """Every draw by itself and with replacement: a label, then an image of it.

    Args:
        pool: of L classes.
        predicted: the class that the model gives each image, (B,) int64.
        key: the source of each image's randomness, (B,) int64.
        num: how many draws.
        others: the label is uniform over the others (`Pool.others`); else it is the predicted class.
    """
    labels = predicted[:, None].expand(-1, num)
    if others:
        count, left_out = pool.others(predicted)
        labels = keys.integers(keys.fold(key, LABEL), (num,), count)
        labels = labels + (labels >= left_out[:, None])
    place = (keys.uniform(keys.fold(key, PLACE), (num,), dtype=torch.float64) * pool.counts[labels]).long()
    return (pool.counts.cumsum(0) - pool.counts)[labels] + place


def stratified(pool: Pool, predicted: Tensor, key: Tensor, num: int, *, others: bool) -> Tensor:
    """The same distribution for every single draw, but the labels take turns, and no image comes twice before all have.

    Arguments are those of `independent`. The other labels are walked through round by round in an order that is shuffled
    once for each image; within a label images are drawn without replacement. The first k draws, for any k, are stratified
    too. With as many draws as a pool of equal classes has images to offer, each comes once.
    """
    counts, most = pool.counts, int(pool.counts.max())
    labels = predicted[:, None]
    if others:
        count, left_out = pool.others(predicted)
        place = keys.uniform(keys.fold(key, LABEL), (count + 1,))
        place.scatter_(1, left_out[:, None], torch.inf)
        labels = place.topk(min(num, count), largest=False).indices
    slots = labels.shape[1]
    rounds = min(most, -(-num // slots))
    within = keys.fold(keys.fold(key, PLACE)[:, None], labels)
    order = keys.uniform(within.flatten(), (most,)).view(len(key), slots, most)
    order.masked_fill_(torch.arange(most, device=key.device) >= counts[labels][..., None], torch.inf)
    order = order.topk(rounds, largest=False).indices
    draw = torch.arange(num, device=key.device)
    slot = draw % slots
    chosen = labels[:, slot]
    turn = (draw // slots) % counts[chosen]
    rows = torch.arange(len(key), device=key.device)[:, None]
    return (counts.cumsum(0) - counts)[chosen] + order[rows, slot, turn]


SAMPLINGS: dict[str, Sampling] = {sampling.__name__: sampling for sampling in (stratified, independent)}


def named(name: str) -> Sampling:
    """The sampling of that name.

    Raises:
        UnknownName: none has it.
    """
    return pick("sampling", name, SAMPLINGS)
