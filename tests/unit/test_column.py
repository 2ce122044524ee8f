"""The compact books of a run against dictionaries and sets."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from holdfast.records.column import Column, Keys, Rows


@pytest.mark.parametrize("ascending", [True, False])
def test_as_a_dictionary(ascending: bool) -> None:
    draw = np.random.default_rng(0)
    ids = [*draw.integers(0, 2**62, 300).tolist(), 5, 5, 0]
    column, numbers, rows, lists = Column(), {}, Rows(), {}
    for sample in sorted(ids) if ascending else ids:
        column[sample] = numbers[sample] = float(draw.normal())
        rows[sample] = lists[sample] = tuple(draw.integers(0, 1000, 3).tolist())
    assert column == numbers and rows == lists and len(column) == len(numbers) == len(rows)
    assert list(column) == sorted(numbers) == column.ids.tolist() and 5 in column and 6 not in column and 6 not in rows
    asked = np.array([5, ids[7], ids[3]])
    assert column.at(asked).tolist() == [numbers[i] for i in asked.tolist()]
    assert rows.at(asked).tolist() == [list(lists[i]) for i in asked.tolist()]
    assert np.isnan(column.at(np.array([1, 2**63 - 1]))).all() and column.at(asked[:0]).shape == (0,)
    for empty in (column, rows):
        with pytest.raises(KeyError):
            empty[6]


def test_of_nothing() -> None:
    assert np.isnan(Column().at(np.array([3]))).all() and not Column() and Column() == {} == Rows()
    assert Rows().at(np.zeros(0, dtype=np.int64)).shape == (0, 0) and Keys() == set()


def test_as_a_set() -> None:
    draw = np.random.default_rng(0)
    keys, known = Keys(), set()
    for name, level, first in zip(
        draw.choice(["fog", "snow"], 200), draw.integers(1, 6, 200), draw.integers(0, 90, 200)
    ):
        keys.add((str(name), int(level), int(first)))
        known.add((str(name), int(level), int(first)))
    assert keys == known and known == keys and len(keys) == len(known) and set(keys) == known
    assert ("fog", 1, 91) not in keys and ("rain", 1, 1) not in keys and "fog" not in keys


def test_few_bytes() -> None:
    column, keys = Column(), Keys()
    for sample in range(1000):
        column[sample] = 0.5
        keys.add(("fog", 3, sample))
    held = [column._ids, column._numbers, keys._numbers["fog", 3]]
    assert sum(map(sys.getsizeof, held)) < 1000 * 3 * 8 * 1.2 + 1000
