"""A model on every image of a source under every condition, chunk by chunk: what runs over conditions have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.ascent.engine import NOT_FINITE
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.audit.divided import Tally, Watcher, agree, opened, pieces
from holdfast.audit.feed import uint8_images
from holdfast.audit.ranks import Ranks, taken
from holdfast.data.ahead import Ahead
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel
from holdfast.models.model import Model
from holdfast.records.lines import Line
from holdfast.records.part import Part

Condition = tuple[Any, ...]


class Chunk(NamedTuple):
    """Some images: the place of the first, their ids (n,), the clean images (n,C,H,W) uint8, their labels (n,)."""

    first: int
    ids: np.ndarray
    clean: Tensor
    labels: np.ndarray


class Sweep(Generic[Line]):
    """The work of a part from where its store stands to its end.

    Args:
        name: of the part, for what its processes count together.
        store: its lines; a condition followed by the place of a chunk's first image is the key of one.
        conditions: everything that every image is shown under.
        chunk: images of a line; ``device``: where they go.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        store: Part[Line],
        conditions: Sequence[Condition],
        *,
        chunk: int,
        device: torch.device,
        ranks: Ranks,
        watch: Watcher | None,
    ) -> None:
        self.conditions, self.firsts = conditions, range(0, len(source), chunk)
        self._source, self._ahead, self._store, self._ranks = source, Ahead(source), store, ranks
        self._size, self._device, self._counter = chunk, device, f"{name} taken"
        before = sum(min(chunk, len(source) - first) for *_, first in store.done)
        self._tally = Tally(name, ranks, before=before, total=len(conditions) * len(source), watch=watch)

    def run(self, found: Iterable[tuple[str, Sequence[Line], int]]) -> float:
        """Writes what is found, each time what it is, its lines and for how many images; the seconds that it took."""
        with self._ahead:
            for what, lines, count in found:
                for line in lines:
                    self._store.append(line)
                self._tally.add(what, count)
        agree(self._store, self._ranks)
        self._tally.close()
        return self._tally.seconds

    def by_chunk(self) -> Iterator[tuple[Condition, Chunk]]:
        """What is not written yet, and no other process takes, chunk by chunk, so that an image is decoded once."""
        todo = [[(each, first) for each in self.conditions if not self._has(each, first)] for first in self.firsts]
        self.expect()
        chunk = None
        for piece in taken(pieces(todo, self._ranks), self._ranks, self._counter):
            for condition, first in piece:
                if chunk is None or chunk.first != first:
                    chunk = self.chunk(first)
                yield condition, chunk

    def by_condition(self) -> Iterator[tuple[Condition, list[int]]]:
        """The same condition by condition, each with the places of the chunks that are not written yet."""
        todo = [(each, [first for first in self.firsts if not self._has(each, first)]) for each in self.conditions]
        yield from taken([each for each in todo if each[1]], self._ranks, self._counter)

    def expect(self) -> None:
        """All images will be asked for, in their order, as far as that is known."""
        if self._ranks.world == 1:  # else nobody knows which images will be this process's
            self._ahead.expect(self._source.ids)

    def chunk(self, first: int) -> Chunk:
        """The chunk whose first image is at that place."""
        ids = np.asarray(self._source.ids)[first : first + self._size]
        batch = self._ahead.take(ids)
        return Chunk(first, ids, uint8_images(batch.images).to(self._device), np.asarray(batch.labels))

    def _has(self, condition: Condition, first: int) -> bool:
        return (*condition, first) in self._store.done


@contextmanager
def sweeping(
    name: str,
    model: Model,
    source: Source,
    opens: Callable[[int], Part[Line]],
    conditions: Sequence[Condition],
    *,
    chunk: int,
    ranks: Ranks,
    watch: Watcher | None,
) -> Iterator[Sweep[Line]]:
    """The sweep of a frozen model over the part that ``opens`` opens for a process of this rank; see `Sweep`."""
    with opened(opens, ranks) as store, frozen(model.module), rng_kept(model.device):
        yield Sweep(name, source, store, conditions, chunk=chunk, device=model.device, ranks=ranks, watch=watch)


def check_finite(logits: Tensor, ids: np.ndarray, where: str) -> None:
    """Refuses logits (n, ...) of the images ``ids`` (n,) that are not finite. Raises BadModel."""
    finite = torch.isfinite(logits).flatten(1).all(1)
    if not bool(finite.all()):
        raise BadModel(
            f"{NOT_FINITE} on the sample {ids[int((~finite).nonzero()[0, 0])]} under {where}",
            hint="look for divisions by zero or half-precision overflow",
        )
