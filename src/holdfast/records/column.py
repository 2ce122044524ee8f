"""What is known of samples by their ids, in 16 bytes a number where a dictionary takes about a hundred."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np


class Column(Mapping[int, float]):
    """A number for each id, kept by ascending id."""

    def __init__(self) -> None:
        self._ids, self._numbers = array("q"), array("d")

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __getitem__(self, sample: int) -> float:
        place, known = _find(self._ids, sample)
        if not known:
            raise KeyError(sample)
        return self._numbers[place]

    def __setitem__(self, sample: int, number: float) -> None:
        place, known = _find(self._ids, sample)
        if known:
            self._numbers[place] = number
        else:
            self._ids.insert(place, sample)
            self._numbers.insert(place, number)

    @property
    def ids(self) -> np.ndarray:
        """The ids, (n,) int64, ascending."""
        return np.array(self._ids, dtype=np.int64)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers, (n,) float64, in the order of the ids."""
        return np.array(self._numbers, dtype=np.float64)

    def at(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of some ids, (n,) float64; NaN for those that are not here."""
        known, numbers = np.append(self.ids, np.iinfo(np.int64).max), np.append(self.numbers, np.nan)
        places = np.searchsorted(known[:-1], ids)
        return np.where(known[places] == ids, numbers[places], np.nan)


class Rows(Mapping[int, tuple[int, ...]]):
    """A row of whole numbers for each id, all of one width, kept by ascending id."""

    def __init__(self) -> None:
        self._ids, self._numbers = array("q"), array("i")

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __getitem__(self, sample: int) -> tuple[int, ...]:
        place, known = _find(self._ids, sample)
        if not known:
            raise KeyError(sample)
        return tuple(self._numbers[place * self._width : (place + 1) * self._width])

    def __setitem__(self, sample: int, row: Sequence[int]) -> None:
        place, known = _find(self._ids, sample)
        start = place * len(row)
        self._numbers[start : start + known * len(row)] = array("i", row)
        if not known:
            self._ids.insert(place, sample)

    def at(self, ids: np.ndarray) -> np.ndarray:
        """The rows (n, width) int64 of ids that are all here."""
        rows = np.array(self._numbers, dtype=np.int64).reshape(len(self), self._width)
        return rows[np.searchsorted(np.array(self._ids, dtype=np.int64), ids)]

    @property
    def _width(self) -> int:
        return len(self._numbers) // max(1, len(self._ids))


class Keys(Set[tuple[Any, ...]]):
    """A set of keys, few of which differ in anything but their last entry, a whole number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], array[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._numbers.values()))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return ((*head, number) for head, numbers in self._numbers.items() for number in numbers)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and _find(self._numbers.get(key[:-1], array("q")), key[-1])[1]

    def add(self, key: tuple[Any, ...]) -> None:
        """Puts a key in."""
        numbers = self._numbers.setdefault(key[:-1], array("q"))
        place, known = _find(numbers, key[-1])
        if not known:
            numbers.insert(place, key[-1])

    def update(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Puts some in."""
        for key in keys:
            self.add(key)


def _find(ids: array[int], sample: int) -> tuple[int, bool]:
    """Where an id is, or belongs, and whether it is there."""
    place = bisect_left(ids, sample)
    return place, place < len(ids) and ids[place] == sample
