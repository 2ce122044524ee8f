"""Who enters a stage: the rules over what earlier stages saw."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.audit.entry import Drawn, Escalated, Everyone, IfBroken, Near, Past, Same, Sampled

NAN = np.nan


def past(clean, seen, *, alive=None, doubts=(), seed=0) -> Past:
    clean = np.array(clean, dtype=float)
    seen = {name: np.array(margin, dtype=float) for name, margin in seen.items()}
    best = np.fmin.reduce([clean, *seen.values()]) if seen else clean
    standing = best > 0 if alive is None else np.array(alive)
    return Past(np.arange(len(clean)), standing, clean, seen, seed, frozenset(doubts))


def test_need_and_best():
    given = past([4, 4, 4], {"a": [2, 4, NAN], "b": [3, 1, NAN]})
    assert given.best().tolist() == [2, 1, 4] and given.best(before="b").tolist() == [2, 4, 4]
    assert given.need(given.best())[:2].tolist() == [1, 1 / 3] and given.need(given.best())[2] > 1e9
    assert Everyone()(given).all()


def test_near_keeps_those_that_the_last_gains_could_reach():
    # The second stage took at most 0.2 of all that was taken off: who needs more than twice that is out.
    given = past([10, 10, 10], {"first": [2.0, 5.0, 9.0], "second": [1.5, 4.0, 9.0]})
    gain = (5.0 - 4.0) / 6.0
    need = given.need(given.best())
    assert need[0] < 2 * gain < need[1]
    assert Near(factor=2, floor=0)(given).tolist() == [True, False, False]
    assert Near(factor=2, floor=10)(given).tolist() == [True, True, True]


def test_near_forgets_slowly_and_the_first_stage_does_not_count():
    first = past([10, 10], {"first": [1, 9]})
    assert Near(floor=0.2)(first).tolist() == [True, False]  # only the floor: 1 / 9 is within it
    seen = {"first": [8, 8], "second": [4, 4], "third": [4, 4]}
    need = 4 / 6
    assert Near(factor=1, decay=0.7, floor=0)(past([10, 10], {k: seen[k] for k in ("first", "second")})).all()
    assert not Near(factor=1, decay=0.7, floor=0)(past([10, 10], seen)).any() and need > 0.7 * (4 / 6)
    assert Near(factor=1.5, decay=0.7, floor=0)(past([10, 10], seen)).all()


def test_near_counts_what_fell_as_gained():
    given = past([10, 10], {"first": [5, 5], "second": [-1, 5]})
    assert given.alive.tolist() == [False, True]
    assert Near(factor=2, floor=0)(given).tolist() == [False, True]  # (5 + 1) / 11 of the way, twice, is more than 1


def test_sampled_takes_the_nearest_and_a_seeded_draw():
    clean, found = np.full(100, 10.0), np.linspace(1, 9, 100)
    given = past(clean, {"a": found})
    rule = Sampled(share=0.1, least=16, most=64)
    chosen = rule(given)
    assert chosen.sum() == 16 and chosen[:8].all() and (rule(given) == chosen).all()
    assert (rule(past(clean, {"a": found}, seed=1)) != chosen).any()
    assert rule(past(clean[:5], {"a": found[:5]})).all()
    assert Sampled(0.5, 1, 20)(given).sum() == 20 and rule.typical(1000) == 64


@pytest.mark.parametrize(
    ("square", "alarm"),
    [([9.5, 9.0, 9.4], False), ([9.5, -1, 9.4], True), ([3.9, 9.5, 9.5], True), ([5.1, 5.2, 5.3], True)],
    ids=["nothing", "fooled", "below", "as much"],
)
def test_escalated_on_an_alarm(square, alarm):
    given = past([10, 10, 10, 10], {"a": [4, 4, 4, 1], "check": [*square, NAN]})
    entering = Escalated("check", need=0.25)(given)
    assert bool(Escalated("check").alarms(given)) == alarm
    assert entering.tolist() == [False, False, False, alarm]  # only the last one is within the need
    assert Escalated("check", need=0.25)(past([10.0], {"a": [1.0]})).tolist() == [False]  # no check, no alarm


def test_escalated_on_doubts():
    seen = {"a": [4, 1], "check": [9.5, NAN]}
    assert Escalated("check")(past([10, 10], seen, doubts=["curved loss"])).tolist() == [False, True]
    for doubt in ("zero gradients", "dishonest gradients"):
        assert Escalated("check")(past([10, 10], seen, doubts=[doubt])).all()


def test_an_audit_draws_and_follows():
    given = past(np.full(50, 10.0), {"a": np.full(50, 5.0)})
    drawn = Drawn(7)(given)
    assert drawn.sum() == 7 and (Drawn(7)(given) == drawn).all() and Drawn(99)(given).all()
    margin = np.where(drawn, 2.0, NAN)
    after = past(np.full(50, 10.0), {"a": np.full(50, 5.0), "audit-x": margin})
    assert (Same("audit-x", 7)(after) == drawn).all() and not IfBroken("audit-x")(after).any()
    margin[np.flatnonzero(drawn)[2]] = -1
    broken = past(np.full(50, 10.0), {"a": np.full(50, 5.0), "audit-x": margin})
    assert Same("audit-x", 7)(broken).sum() == 6 and IfBroken("audit-x")(broken).sum() == 49
