"""The processes of one training: which part of a step each computes, what they add up, and what they agree on.

A step adds up the gradients itself, once, after its backward passes, where `torch.nn.parallel.DistributedDataParallel` would
do so during the one that follows its own forward. A step here has several forwards, some of copies of the net, and gradients
that are no backward pass (AWP, GradAlign), which that wrapper does not see; parts of unequal size have unequal weights; and
the passes to the weights, behind which it could hide the messages, are 2 of the 23 of adversarial training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from holdfast.audit.ranks import Alone, Ranks
from holdfast.foundation.errors import Incomplete
from holdfast.objectives.objective import Examples

Made = TypeVar("Made")

BUCKET = 2**26
"""Bytes that are sent at once, about: what a sum takes of memory besides its tensors."""

_LONG = timedelta(days=365)  # the others wait while the first one looks at the net; if it dies, the connection breaks


class Team:
    """The processes of a training, of which this is the ``rank``-th of ``world``; alone unless ``ranks`` are given.

    Sums are by gloo, or by nccl where ``device`` is a GPU, in the process group ``group``. Every method is to be called by
    all of them alike.

    Raises:
        Incomplete: from every method; another process has ended.
    """

    def __init__(self, ranks: Ranks | None = None, device: torch.device | str = "cpu") -> None:
        self.ranks = ranks or Alone()
        self.rank, self.world = self.ranks.rank, self.ranks.world
        self.group: Any = None
        if self.world > 1:
            import torch.distributed as dist

            on_gpu = torch.device(device).type == "cuda"
            self.group = dist.new_group(backend="nccl", timeout=_LONG) if on_gpu else dist.group.WORLD

    def by_first(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, told to all."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        told: list[Any] = [make() if self.rank == 0 else None]
        with _whole():
            dist.broadcast_object_list(told, src=0)
        return told[0]

    def parts(self, batch: Examples, parts: int) -> list[tuple[float, Examples]]:
        """What this process does of a batch, in up to so many parts, and the weight of each in the mean over all images."""
        found = shares(len(batch.x), self.rank, self.world, parts)
        if len(found) == 1 and found[0][1] == slice(0, len(batch.x), 1):
            return [(found[0][0], batch)]
        return [(weight, batch.part(rows)) for weight, rows in found]

    def divides(self, count: int) -> bool:
        """Whether a batch of ``count`` images is divided among several processes."""
        return self.world > 1 and _divided(count, self.world)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes, in place, the sum of those of all processes; to the same bits in all of them."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([each.reshape(-1) for each in bucket])
            with _whole():
                dist.all_reduce(flat, group=self.group)
            for each, piece in zip(bucket, flat.split([each.numel() for each in bucket])):
                each.copy_(piece.view(each.shape))

    @torch.no_grad()
    def level(self, tensors: Sequence[Tensor], before: Sequence[Tensor], weight: float) -> None:
        """Each tensor becomes, in place, the mean of those of all processes, of which this one has that weight.

        The means are of the changes since ``before``, which all have in common: what did not change stays to the bit.
        """
        if self.world == 1:
            return
        changes = [weight * (now - then) for now, then in zip(tensors, before)]
        self.add_up(changes)
        for each, then, change in zip(tensors, before, changes):
            each.copy_(then + change)


def shares(count: int, rank: int, world: int, parts: int) -> list[tuple[float, slice]]:
    """The rows of a batch of ``count`` that are the share of a process, in up to ``parts`` parts, and each part's weight.

    Rows are dealt out in turn, so that shares differ by one row at most, and all processes have as many parts. Nothing is
    divided until a single image is left, which batch norm does not take: a batch of fewer than two images for each process
    is done by each of them as a whole.
    """
    divided = _divided(count, world)
    mine = range(count)[rank::world] if divided else range(count)
    parts = max(1, min(parts, (count // world if divided else count) // 2))
    each = [mine[part::parts] for part in range(parts)]
    every = count if divided else count * world
    return [(len(rows) / every, slice(rows.start, rows.stop, rows.step)) for rows in each]


def _divided(count: int, world: int) -> bool:
    return count >= 2 * world


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one type and about `BUCKET` bytes."""
    bucket: list[Tensor] = []
    for each in tensors:
        if bucket and (each.dtype != bucket[0].dtype or sum(kept.nbytes for kept in bucket) > BUCKET):
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket


@contextmanager
def _whole() -> Iterator[None]:
    """Within, processes talk to one another; says so if one of them is no longer there."""
    try:
        yield
    except RuntimeError as error:
        raise _ended() from error


@contextmanager
def connected() -> Iterator[None]:
    """The same where other code, too, talks to the other processes: what gloo and nccl raise is told from other errors."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise _ended() from error
        raise


def _ended() -> Incomplete:
    return Incomplete(
        "another process of this training has ended before its work was done",
        hint="run the same command again, with any number of processes: it goes on from the last checkpoint",
    )
