"""Draws are pure functions of their keys: pinned, uniform, independent of batch, order, dtype and of everything global."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast import keys

INT64 = st.integers(-(2**63), 2**63 - 1)


def row_keys(count: int, seed: int = 0) -> torch.Tensor:
    return keys.fold(keys.root(seed), torch.arange(count))


def test_pinned_values():
    """These numbers are behind every published seed. If this test fails, the change is wrong, not the test."""
    key = row_keys(3)
    assert [keys.root(seed).item() for seed in (0, 1, -1)] == [
        -2152535657050944081,
        -7995527694508729151,
        -1956407806741107680,
    ]
    assert key.tolist() == [3531997233750407150, 8894490403218573676, -5321269943520255929]
    assert keys.number("pgd") == 5469190902827571692
    assert (keys.uniform(key, (3,)) * 2**24).to(torch.int64).tolist() == [
        [12778725, 8990581, 7688260],
        [5081699, 12275978, 9317080],
        [11322240, 14082434, 3045293],
    ]
    assert keys.integers(key, (3,), 1000).tolist() == [[639, 965, 330], [301, 526, 226], [300, 24, 417]]
    normal = [
        [0.711689274750499, 0.09006044075510702],
        [-0.516098268019993, 0.6179787637701902],
        [0.4533680185880671, 0.9919068698382104],
    ]
    torch.testing.assert_close(
        keys.normal(key, (2,), dtype=torch.float64), torch.tensor(normal, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )
    pairs = [
        [-0.6732645630836487, -0.08108829706907272, 1.014214038848877],
        [0.7663538455963135, -0.5380793809890747, -0.6443287134170532],
        [-0.5502318739891052, -0.8926876783370972, -0.7469522356987],
    ]
    torch.testing.assert_close(keys.box_muller(key, (3,)), torch.tensor(pairs), rtol=1e-5, atol=1e-6)


def test_the_mixer_is_splitmix64():
    """The generator of Steele, Lea and Flood with seed 0 begins with these numbers (the authors' published test vector)."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = [keys._mix(torch.tensor(keys._GOLDEN) * n).item() % 2**64 for n in (1, 2, 3)]
    assert drawn == first


@given(st.lists(INT64, min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_a_row_depends_on_its_key_only(values, height, width):
    key = torch.tensor(values)
    shape = (height, width)
    for draw in (keys.uniform, keys.normal, keys.box_muller, lambda k, s: keys.integers(k, s, 1000)):
        together = draw(key, shape)
        assert together.shape == (len(values), *shape)
        assert torch.equal(together.flip(0), draw(key.flip(0), shape))
        for i in range(len(values)):
            assert torch.equal(draw(key[i : i + 1], shape)[0], together[i])
    # A longer draw begins with the shorter one: a value belongs to its place.
    longer = keys.uniform(key, (height * width + 5,))
    assert torch.equal(longer[:, : height * width], keys.uniform(key, shape).flatten(1))


@given(INT64)
@settings(max_examples=60, deadline=None)
def test_all_dtypes_see_the_same_draws(value):
    key = torch.tensor([value])
    assert torch.equal(keys.uniform(key, (64,)).double(), keys.uniform(key, (64,), dtype=torch.float64))
    assert torch.equal(keys.normal(key, (64,)), keys.normal(key, (64,), dtype=torch.float64).float())
    assert torch.isfinite(keys.normal(key, (64,), dtype=torch.float64)).all()
    u = keys.uniform(key, (64,), dtype=torch.float64)
    assert (u >= 0).all() and (u < 1).all() and torch.equal(u * 2**24, (u * 2**24).round())


def test_shapes_without_entries():
    none = torch.zeros(0, dtype=torch.int64)
    assert keys.uniform(none, (3, 2)).shape == (0, 3, 2)
    assert keys.normal(none, (3, 2)).shape == (0, 3, 2)
    assert keys.box_muller(none, (3, 2)).shape == (0, 3, 2)
    assert keys.uniform(row_keys(4), ()).shape == keys.box_muller(row_keys(4), ()).shape == (4,)
    assert keys.uniform(row_keys(4), (0,)).shape == (4, 0)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("layout", ["many keys", "one key", "the low bits of keys"])
def test_uniform_draws_are_uniform(seed, layout):
    count = 1 << 17
    key = {
        "many keys": lambda: row_keys(count, seed),
        "one key": lambda: row_keys(1, seed),
        "the low bits of keys": lambda: torch.arange(count) + seed,  # keys that nobody has mixed
    }[layout]()
    u = keys.uniform(key, (count // len(key),), dtype=torch.float64).flatten()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    for bins in (64, 1000):
        seen = torch.bincount((u * bins).long(), minlength=bins)
        assert stats.chisquare(seen.numpy()).pvalue > 1e-4
    low = (u * 2**24).long() % 256  # the last of the 24 bits, too
    assert stats.chisquare(torch.bincount(low, minlength=256).numpy()).pvalue > 1e-4
    pairs = (u[:-1] * 16).long() * 16 + (u[1:] * 16).long()
    assert stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 5])
def test_normal_draws_are_normal(seed):
    x = keys.normal(row_keys(256, seed), (512,), dtype=torch.float64)
    flat = x.flatten()
    assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-4
    n = len(flat)
    assert abs(float(flat.mean())) < 4 / n**0.5
    assert abs(float(flat.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((flat**3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float((flat**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    # Neighbouring keys and neighbouring places are uncorrelated.
    for a, b in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:])):
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5


@pytest.mark.parametrize("seed", [0, 5])
def test_pairs_of_normal_draws_are_normal_and_independent(seed):
    x = keys.box_muller(row_keys(256, seed), (2048,)).double()
    flat, half = x.flatten(), 1024
    assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-4
    n = len(flat)
    assert abs(float(flat.mean())) < 4 / n**0.5
    assert abs(float(flat.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((flat**3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float((flat**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    for bound in (2.0, 3.0, 4.0):
        for tail in (flat > bound, flat < -bound):
            expected = n * stats.norm.sf(bound)
            assert abs(float(tail.sum()) - expected) < 4 * expected**0.5 + 1
    # Neighbouring keys, neighbouring places and the two of a pair: neither the draws nor their squares are correlated.
    for a, b in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:]), (x[:, :half], x[:, half:])):
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5
        assert abs(float(((a**2 - 1) * (b**2 - 1)).mean())) < 4 * 2 / a.numel() ** 0.5
    other = keys.normal(row_keys(256, seed), (2048,)).double()
    assert abs(float((x * other).mean())) < 4 / n**0.5


def test_draws_larger_than_a_cacheful_are_the_same():
    """Draws are made a block at a time; the blocks' bounds depend on the threads, and are not to be seen."""
    key, size = row_keys(2), (3 << 16) + 5
    threads = torch.get_num_threads()
    drawn = []
    for count in (1, 2):
        torch.set_num_threads(count)
        drawn.append((keys.uniform(key, (size,)), keys.box_muller(key, (size,))))
    torch.set_num_threads(threads)
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    definition = keys._mix(keys._mix(key[1]) + torch.arange(1, size + 1) * keys._GOLDEN)
    assert torch.equal((drawn[0][0][1] * 2**24).long(), keys._shift(definition, 40))


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_uniform(high):
    drawn = keys.integers(row_keys(100), (700,), high).flatten()
    assert int(drawn.min()) >= 0 and int(drawn.max()) == high - 1
    if high > 1:
        assert stats.chisquare(torch.bincount(drawn, minlength=high).numpy()).pvalue > 1e-4


@given(INT64, INT64)
@settings(max_examples=200, deadline=None)
def test_fold_is_sensitive_to_every_bit_and_to_the_order(key, data):
    base = keys.fold(torch.tensor(key), data)
    for bit in (0, 1, 17, 40, 62):
        other = keys.fold(torch.tensor(key), data ^ (1 << bit))
        # About half of the 64 bits flip: fewer than 8 has a chance of 1e-10.
        assert 8 <= ((base ^ other).item() % 2**64).bit_count() <= 56
        other = keys.fold(torch.tensor(key ^ (1 << bit)), data)
        assert 8 <= ((base ^ other).item() % 2**64).bit_count() <= 56
    if key != data:
        assert base.item() != keys.fold(torch.tensor(data), key).item()


def test_folds_do_not_collide():
    seen = torch.cat(
        [
            keys.fold(keys.fold(row_keys(100, seed), stage)[:, None], torch.arange(50)).flatten()
            for seed in range(5)
            for stage in range(4)
        ]
    )
    assert len(seen.unique()) == len(seen) == 100_000


def test_fold_broadcasts_and_takes_tensors_like_numbers():
    key = row_keys(3)
    assert keys.fold(key[:, None], torch.arange(4)).shape == (3, 4)
    assert torch.equal(keys.fold(key, 7), keys.fold(key, torch.tensor(7)))
    assert torch.equal(keys.fold(key, torch.tensor([7, 7, 7], dtype=torch.int32)), keys.fold(key, 7))


def test_numbers_of_names_differ_and_fit():
    names = [f"stage-{i}" for i in range(1000)]
    assert len({keys.number(name) for name in names}) == 1000
    assert all(-(2**63) <= keys.number(name) < 2**63 for name in names)


def test_no_global_generator_is_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = keys.uniform(row_keys(2), (4,)), keys.normal(row_keys(2), (4,)), keys.integers(row_keys(2), (4,), 9)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    torch.manual_seed(99)
    again = keys.uniform(row_keys(2), (4,)), keys.normal(row_keys(2), (4,)), keys.integers(row_keys(2), (4,), 9)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
