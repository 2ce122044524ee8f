"""Intervals against published values, SciPy's own, and their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from holdfast.foundation.errors import BadValue
from holdfast.foundation.stats import Interval, bootstrap, bounded_mean, clopper_pearson, holm, mcnemar, wilson

shares = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.01, 0.999)


def test_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I: 81/263 and 15/148, methods 3 and 5.
    assert (round(wilson(81, 263).low, 4), round(wilson(81, 263).high, 4)) == (0.2553, 0.3662)
    assert (round(wilson(15, 148).low, 4), round(wilson(15, 148).high, 4)) == (0.0624, 0.1605)
    assert (round(wilson(0, 20).low, 4), round(wilson(0, 20).high, 4)) == (0.0, 0.1611)
    assert (round(clopper_pearson(81, 263).low, 4), round(clopper_pearson(81, 263).high, 4)) == (0.2527, 0.3676)
    assert clopper_pearson(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))  # the closed form at the end


@given(shares, confidences)
def test_as_scipy(share: tuple[int, int], confidence: float) -> None:
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        found, wanted = ours(*share, confidence), binomtest(*share).proportion_ci(confidence, method)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@given(shares, confidences)
def test_laws_of_shares(share: tuple[int, int], confidence: float) -> None:
    for method in (wilson, clopper_pearson):
        found, mirrored = method(*share, confidence), method(share[1] - share[0], share[1], confidence)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-9)
        wider = method(*share, (1 + confidence) / 2)
        assert wider.low <= found.low + 1e-12 and found.high <= wider.high + 1e-12


def test_nothing_measured() -> None:
    for found in (wilson(0, 0), clopper_pearson(0, 0)):
        assert math.isnan(found.value) and (found.n, found.low, found.high) == (0, 0.0, 1.0)
    paired = mcnemar(0, 0, n=0)
    assert math.isnan(paired.difference.value) and (paired.difference.low, paired.difference.high) == (-1, 1)
    assert paired.p_value == 1
    empty = bootstrap([], seed=0)
    assert math.isnan(empty.value) and (empty.low, empty.high) == (-math.inf, math.inf)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 500), confidences)
def test_mcnemar(only_a: int, only_b: int, rest: int, confidence: float) -> None:
    n = only_a + only_b + rest
    found = mcnemar(only_a, only_b, n=n, confidence=confidence)
    wanted = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(wanted, rel=1e-9)
    if n:
        assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1
        swapped = mcnemar(only_b, only_a, n=n, confidence=confidence).difference
        assert (swapped.low, swapped.high) == pytest.approx((-found.difference.high, -found.difference.low))


def test_mcnemar_by_hand() -> None:
    found = mcnemar(9, 1, n=98)
    assert found.p_value == pytest.approx(2 * 11 / 2**10)
    half = 1.959964 * math.sqrt(11 / 100 - 0.08**2) / 10  # Agresti and Min: one half more in each of four cells
    assert (found.difference.low, found.difference.high) == pytest.approx((0.08 - half, 0.08 + half), abs=1e-6)
    assert found.difference.value == pytest.approx(8 / 98)


def test_mcnemar_covers() -> None:
    draws = np.random.default_rng(0).multinomial(200, [0.12, 0.05, 0.83], size=400)
    found = [mcnemar(int(a), int(b), n=200).difference for a, b, _ in draws]
    assert np.mean([one.low <= 0.07 <= one.high for one in found]) > 0.92


def test_holm() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=200)
    found = bootstrap(values, seed=3)
    assert found == bootstrap(list(values), seed=3) != bootstrap(values, seed=4)
    half = 1.96 * values.std() / math.sqrt(200)  # where the mean is normal, so is its bootstrap
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap([2.0] * 5, np.median, seed=0, repeats=10) == Interval(2.0, 5, 2.0, 2.0)


def test_a_mean_at_its_end_is_not_certain() -> None:
    """What never happened to 40 images may happen to the next one."""
    none, every = (bounded_mean([value] * 40, most=1.5, seed=0) for value in (0.0, 1.5 - 1e-12))
    edge = 1.5 * wilson(0, 40).high
    assert (none.value, none.low, none.high) == (0.0, 0.0, pytest.approx(edge))
    assert (every.low, every.high) == (pytest.approx(1.5 - edge), 1.5)
    assert bounded_mean([0.2], most=1.0, seed=0) == Interval(0.2, 1, 0.0, 1.0)
    some = np.arange(40) / 40
    assert bounded_mean(some, most=1.0, seed=3) == bootstrap(some, seed=3, repeats=1000)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: wilson(1.0, 2),  # type: ignore[arg-type]
        lambda: wilson(True, 2),
        lambda: wilson(1, 2, 1.0),
        lambda: wilson(1, 2, 0),
        lambda: clopper_pearson(1, 2, math.nan),
        lambda: clopper_pearson(1, -2),
        lambda: mcnemar(2, 2, n=3),
        lambda: mcnemar(-1, 2, n=3),
        lambda: bootstrap([1.0, math.nan], seed=0),
        lambda: bootstrap(np.ones((2, 2)), seed=0),
        lambda: bootstrap(["a"], seed=0),  # type: ignore[list-item]
        lambda: bootstrap([1.0], seed=-1),
        lambda: bootstrap([1.0], seed=0, repeats=0),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(BadValue) as caught:
        call()
    assert caught.value.hint


def test_numpy_counts_pass() -> None:
    assert wilson(np.int64(1), np.int64(2)) == wilson(1, 2)  # type: ignore[arg-type]
