"""Batches that do not fit into memory, and rows that fail: what the halves give, and what the engine makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import GRID, NEVER, WAYS, Counting, Door, Walk, decided, hunt_for, summary
from torch import Tensor

from holdfast.ascent import engine
from holdfast.ascent.engine import Hunt
from holdfast.ascent.halves import halves, short_of_memory, told
from holdfast.ascent.meter import Meter
from holdfast.ascent.verdict import Ended, Verdict
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.foundation.errors import BadFile, BadModel
from holdfast.threats.linf import Linf

CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


class Small:
    """A classifier for which memory suffices for ``room`` images at once. Counts how often it did not."""

    def __init__(self, classifier: Callable[[Tensor], Tensor], room: int, error: Exception | None = None) -> None:
        self.classifier, self.room = classifier, room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.refused = 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            self.refused += 1
            raise self.error
        return self.classifier(x)


def test_every_row_is_done_once_and_in_order():
    shown = []

    def work(at: slice) -> list[int]:
        shown.append(at.stop - at.start)
        if at.stop - at.start > 5:
            raise torch.OutOfMemoryError
        return list(range(at.start, at.stop))

    tried = halves(work, 40, 16)
    assert list(chain(*tried.parts)) == list(range(40)) and tried.most == 4
    assert shown == [16, 8] + [4] * 10  # what did not fit once is not tried again
    assert halves(work, 0, 16).parts == [] and halves(work, 7, 3).most == 3


@given(st.integers(1, 60), st.integers(1, 20), st.sets(st.integers(0, 59)), st.integers(1, 60))
def test_rows_that_fail_are_told_and_the_others_done(count, most, sick, room):
    def work(at: slice) -> list[int]:
        rows = set(range(at.start, at.stop))
        if len(rows) > room:
            raise MemoryError
        if rows & sick:
            raise BadFile("unreadable", hint="mend it")
        return sorted(rows)

    failed = []
    tried = halves(work, count, most, lambda row, error: failed.append((row, told(error))))
    assert failed == [(row, "BadFile: unreadable") for row in sorted(sick) if row < count]
    assert list(chain(*tried.parts)) == [row for row in range(count) if row not in sick]
    assert 1 <= tried.most <= most


def test_what_ends_the_work():
    def raises(error: Exception, *more) -> None:
        def work(at: slice) -> None:
            raise error

        halves(work, 4, 4, *more)

    for error in (ValueError("x"), BadModel("no gradient", hint="none")):
        with pytest.raises(type(error)):
            raises(error)
    with pytest.raises(BadModel, match="no gradient"):  # that is no row's fault
        raises(error, lambda row, error: None)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError(CPU)):
        with pytest.raises(BadModel, match="a single image does not fit") as caught:
            raises(error, lambda row, error: None)
        assert "--device" in caught.value.hint
    assert not short_of_memory(RuntimeError("shapes differ")) and short_of_memory(
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
    )
    assert told(ValueError("one\ntwo")) == "ValueError: one" and told(KeyError()) == "KeyError"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)])
def test_without_memory_the_slots_are_fewer_and_the_verdicts_the_same(error):
    doors = torch.randint(0, 14, (40, 3), generator=torch.Generator().manual_seed(5)).tolist()
    few, feed = hunt_for(doors, 3)
    hunt, other = hunt_for(doors, 16)
    searched, judge = Small(Door(), 5, error), Small(Door(), 3, error)
    hunt = dataclasses.replace(hunt, model=Meter(searched), original=Meter(judge))
    assert summary(hunt.verdicts(other)) == summary(few.verdicts(feed))
    assert hunt.slots <= 3 and searched.refused + judge.refused <= 5  # not once more than it took to find out


@pytest.mark.parametrize("attack", [PGD(steps=5), APGD(steps=5)])
def test_attacks_without_memory(attack):
    torch.manual_seed(0)
    weight = torch.randn(27, 4, dtype=torch.float64)
    x = torch.rand(20, 3, 3, 3, dtype=torch.float64)

    def net(x: Tensor) -> Tensor:
        return torch.stack([image.flatten() @ weight for image in x])

    y = net(x).argmax(1)
    wanted, found = (
        attack(model, x, y, threat=Linf(0.05), slots=slots) for model, slots in ((net, 2), (Small(net, 3), 20))
    )
    for one, other in zip(vars(wanted).values(), vars(found).values()):
        assert torch.equal(one, other)
    small = Small(net, 3)
    assert torch.equal(engine.predict(small, x), net(x)) and small.refused == 3  # 20, 10, 5


class Sick(Door):
    """Fails on images whose second pixel is at one of the places, once they have walked there: raises, or answers NaN."""

    def __init__(self, places: tuple[int, ...], how: str, late: int = 0) -> None:
        super().__init__(late)
        self.places, self.how = places, how

    def __call__(self, x: Tensor) -> Tensor:
        there = (x[:, 0, 0, 0] > 3.5 * GRID) & torch.isin(
            (x[:, 0, 0, 1] / GRID).round().long(), torch.tensor(self.places)
        )
        if self.how == "raise" and bool(there.any()):
            raise ValueError("cannot take it")
        return torch.where(there[:, None], torch.nan, super().__call__(x))


@pytest.mark.parametrize("how", ["raise", "NaN"])
@given(st.lists(WAYS, min_size=1, max_size=8), st.integers(1, 12), st.sampled_from([0, 2]))
@settings(max_examples=40, deadline=None)
def test_a_sample_fails_if_and_only_if_its_verdict_needs_the_search_that_does(how, doors, slots, late):
    """Whatever the slots: a search that fails after the one that decides is no failure."""
    sick = (8, 9)
    hunt, feed = hunt_for(doors, slots, late=late)
    failed: dict[int, str] = {}
    hunt = dataclasses.replace(
        hunt, model=Meter(Sick(sick, how)), original=Meter(Sick(sick, how, late)), failed=failed.__setitem__
    )
    events = list(hunt.events(feed))
    verdicts = {e.position: e for e in events if isinstance(e, Verdict)}
    for position, ways in enumerate(doors):
        well = next((i for i, door in enumerate(ways) if door in sick), len(ways))
        fooled, forwards, backwards = decided(ways[:well], late=late)
        if well < len(ways) and not fooled:
            assert position not in verdicts
            assert failed[position] == ("ValueError: cannot take it" if how == "raise" else engine.NOT_FINITE)
        else:
            assert position not in failed
            found = verdicts[position]
            assert (found.fooled, found.forwards, found.backwards) == (fooled, forwards, backwards)
    # What ended before is kept, and not repeated: mended, the hunt comes to the verdicts that it would have come to.
    kept = [e for e in events if not isinstance(e, Verdict) and e.position in failed]
    assert all(isinstance(e, Ended) and e.search < 3 for e in kept)
    if failed:
        left = sorted(failed)
        mended, again = hunt_for([doors[position] for position in left], slots, late=late)
        before = [dataclasses.replace(e, position=left.index(e.position)) for e in kept]
        assert {left[e.position]: (e.fooled, e.forwards) for e in mended.verdicts(again, before=before)} == {
            position: decided(doors[position], late=late)[:2] for position in left
        }


@pytest.mark.parametrize("slots", [1, 4, 20])
def test_the_nearest_of_all_searches_needs_all_searches(slots):
    class Nearest(Walk):
        goal = "minimal"

    hunt, feed = hunt_for([[1, 2, 3], [1, 8, 2], [NEVER, 2, 8], [2, NEVER, 5]], slots)
    failed: dict[int, str] = {}
    hunt = dataclasses.replace(hunt, attack=Nearest(10), model=Meter(Sick((8,), "raise")), failed=failed.__setitem__)
    assert sorted(v.position for v in hunt.verdicts(feed) if v.fooled) == [0, 3] and sorted(failed) == [1, 2]


def test_an_image_that_cannot_be_read():
    class Torn(Counting):
        def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
            if bool((positions == 3).any()):
                raise BadFile("no. 3 is torn", hint="mend it")
            return super().__call__(positions)

    doors = [[2, 1]] * 6
    for slots in (1, 4, 12):
        hunt, _ = hunt_for(doors, slots)
        failed: dict[int, str] = {}
        hunt.failed = failed.__setitem__
        assert sorted(v.position for v in hunt.verdicts(Torn(6))) == [0, 1, 2, 4, 5]
        assert failed == {3: "BadFile: no. 3 is torn"}
        hunt, _ = hunt_for(doors, slots)
        with pytest.raises(BadFile, match="torn"):
            list(hunt.verdicts(Torn(6)))


def test_a_hunt_that_is_given_up():
    def refuse(position: int, happened: str) -> None:
        raise BadModel(f"{position}: {happened}", hint="mend it")

    hunt = Hunt(
        Walk(), Linf(1.0), torch.full((9, 1), NEVER), Meter(Sick((NEVER,), "raise")), Meter(Door()), 4, 0, failed=refuse
    )
    with pytest.raises(BadModel, match="0: ValueError: cannot take it"):
        list(hunt.verdicts(Counting(9)))
