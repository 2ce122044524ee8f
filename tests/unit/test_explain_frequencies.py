"""Frequencies: closed forms of nets that read one frequency only, and the question's tables and figures."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.questions.frequencies import Frequencies, _trapped
from holdfast.foundation.errors import BadValue
from holdfast.models.load import load
from holdfast.probes.frequencies import Restriction, bands, boundary, wave
from holdfast.threats.linf import Linf

SIDE = 8
SHAPE = (1, SIDE, SIDE)
QUICK = Frequencies(bands=4, steps=25, grid=9, rms=0.2)


def quiet(*_):
    pass


def reader(pattern):
    """Logits (s, -s), s the inner product of the image, less grey, with the pattern (H, W): float64."""
    linear = nn.Linear(SIDE * SIDE, 2, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.stack([pattern.ravel(), -pattern.ravel()])))
        linear.bias.copy_(-0.5 * linear.weight.sum(1))
    return nn.Sequential(nn.Flatten(), linear).eval()


def cosine(down, across):
    """A basis image of the cosine transform, of norm 1, written out."""
    one, other = (np.cos(math.pi * number * (2 * np.arange(SIDE) + 1) / (2 * SIDE)) for number in (down, across))
    found = np.outer(one, other)
    return found / np.linalg.norm(found)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2)).double().eval()


def case(*modules, n=12):
    images = 0.45 + 0.1 * np.random.default_rng(0).random((n, *SHAPE))
    with torch.no_grad():
        labels = modules[0](torch.from_numpy(images)).argmax(1).numpy()
    nets = tuple(
        Net(f"net {place}", load(each, shape=SHAPE), "twin" if place else "model") for place, each in enumerate(modules)
    )
    return Case(nets, from_pair(images, labels, class_names=("a", "b")), Linf(0.1))


def test_bands_share_all_coefficients_in_their_order():
    cut = bands(8, 6, 5)
    assert (sum(band.mask.astype(int) for band in cut) == 1).all()
    assert {int(band.mask.sum()) for band in cut} == {9, 10}
    assert all(one.high <= other.low for one, other in itertools.pairwise(cut))
    assert cut[0].low == 0 and cut[-1].high == pytest.approx(math.hypot(7 / 16, 5 / 12))
    with pytest.raises(BadValue, match="num is 0"):
        bands(8, 8, 0)


def test_a_restriction_is_an_orthogonal_projection():
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [Restriction(torch.from_numpy(band.mask).expand(3, -1, -1), images)(images) for band in bands(8, 8, 4)]
    assert sum(parts) == pytest.approx(images, abs=1e-12)
    assert float((parts[0] * parts[2]).sum()) == pytest.approx(0, abs=1e-12)
    once = torch.from_numpy(cosine(2, 3))[None, None]
    only = torch.zeros(1, 8, 8, dtype=torch.bool)
    only[0, 2, 3] = True
    assert Restriction(only, once)(once) == pytest.approx(once, abs=1e-12)


def test_the_boundary_of_a_linear_net_in_each_band():
    module = net()[:2].append(nn.Linear(16, 2, dtype=torch.float64))
    x = torch.rand(5, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = (module[2].weight @ module[1].weight).view(2, 1, 8, 8)
        rise = (module(x)[:, 0] - module(x)[:, 1]).abs()
    for band in bands(8, 8, 3):
        mask = torch.from_numpy(band.mask)
        way = Restriction(mask[None], weight)(weight[:1] - weight[1:])
        found = boundary(module, x, mask.expand(5, -1, -1), steps=40)
        assert found == pytest.approx(rise / way.norm(), rel=0.02)
        assert (found >= rise / way.norm() * (1 - 1e-9)).all()


def test_boundary_does_not_depend_on_the_batch():
    x = torch.rand(6, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.from_numpy(bands(8, 8, 3)[0].mask)
    every = boundary(net(), x, mask.expand(6, -1, -1))
    alone = torch.cat([boundary(net(), one[None], mask[None]) for one in x])
    assert every == pytest.approx(alone, rel=1e-9)


def test_waves_have_norm_one_and_are_orthogonal():
    for down, across in ((0, 0), (4, 4), (1, 3), (0, -4)):
        assert np.linalg.norm(wave(8, 8, down, across)) == pytest.approx(1)
        assert wave(8, 8, down, across) == pytest.approx(wave(8, 8, -down, -across))
    assert (wave(8, 8, 1, 2) * wave(8, 8, 1, -2)).sum() == pytest.approx(0, abs=1e-12)
    assert np.flatnonzero(np.abs(np.fft.fft2(wave(8, 8, 1, 3))) > 1e-9).tolist() == [1 * 8 + 3, 7 * 8 + 5]


def test_a_net_that_reads_one_coefficient_has_its_boundary_in_that_band_alone():
    cut = bands(8, 8, 4)
    for place, (down, across) in ((0, (0, 2)), (3, (7, 6))):
        assert cut[place].mask[down, across]
        found = QUICK.ask(case(reader(3 * cosine(down, across))), quiet)
        away = found.arrays["net 0/away"]
        assert np.median(away, axis=1)[:4].argmin() == place
        assert np.isinf(np.delete(away[:4], place, 0)).all() and np.isfinite(away[place]).all()
        assert away[-1] == pytest.approx(away[place], rel=0.05)
        assert not contradictions([found])


def test_a_net_that_reads_one_wave_errs_there_alone():
    found = QUICK.ask(case(reader(wave(8, 8, 1, -3)), n=40), quiet)
    error, down, across = found.arrays["net 0/error"], *(found.arrays[key] for key in ("down", "across"))
    hot = {(float(down[i]), float(across[j])) for i, j in np.argwhere(error > 0)}
    assert hot == {(1 / 8, -3 / 8), (-1 / 8, 3 / 8)}
    assert 0.2 < error.max() < 0.8  # half of the signs push away from the boundary
    assert error == pytest.approx(error[::-1, ::-1])
    assert "at (-0.38, 0.12)" in str(found.tables[1].rows[0][-1])


def test_the_size_of_the_waves_is_the_smallest_that_changes_a_quarter():
    gentle, corner = Frequencies(bands=2, steps=2, grid=3), np.zeros((8, 8))
    corner[0, 0] = 1  # where every wave is at its height: 0.035 at the smallest size
    assert gentle.ask(case(reader(corner), n=40), quiet).words["rms"] == 0.025
    far = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, dtype=torch.float64))
    with torch.no_grad():
        far[1].weight.mul_(1e-3)
        far[1].bias.copy_(torch.tensor([5.0, 0]))
    assert gentle.ask(case(far), quiet).words["rms"] == 0.4


def test_a_search_that_fares_worse_without_a_restriction_is_a_breach():
    better = {"low": np.full(50, 1.0), "any": np.full(50, 3.0), "all": np.full(50, 0.9)}
    assert _trapped(better) is None
    assert "for 50 of 50 images" in str(_trapped({**better, "all": np.full(50, 2.0)}))
    assert _trapped({**better, "all": np.where(np.arange(50) < 1, 2.0, 0.9)}) is None


def test_a_constant_net_is_a_breach():
    dead = net()
    with torch.no_grad():
        dead[3].weight.zero_()
    found = QUICK.ask(case(dead, n=4), quiet)
    assert any("no change of any image" in each for each in found.breaches)
    assert all(figure.chart.to_dict() for figure in QUICK.draw(found))


def test_a_net_without_finite_logits_is_a_breach():
    asked = case(net(), net(1), n=3)
    with torch.no_grad():
        asked.nets[1].model.module[3].bias.fill_(math.nan)
    found = Frequencies(bands=2, steps=15, grid=3, rms=0.2).ask(asked, quiet)
    assert [each.partition(":")[0] for each in found.breaches] == ["net 1"]


def test_the_answer_is_deterministic_and_draws():
    asked, short = case(net(0), net(1), n=4), Frequencies(bands=2, steps=3, grid=3, rms=0.2)
    found, again = (short.ask(asked, quiet) for _ in range(2))
    assert found.sentences == again.sentences
    assert all(np.array_equal(found.arrays[key], again.arrays[key]) for key in found.arrays)
    drawn = {figure.name: figure.chart.to_dict() for figure in short.draw(found)}
    assert list(drawn) == ["margins", "error_map"] and all(drawn.values())
    assert [row[0] for table in found.tables for row in table.rows] == ["net 0", "net 1"] * 2
    assert any(each.startswith("The boundary of net 0 over that of net 1") for each in found.sentences)


def test_settings_are_checked():
    with pytest.raises(BadValue, match="odd"):
        Frequencies(grid=8)
    with pytest.raises(BadValue, match="rms is -1"):
        Frequencies(rms=-1.0)
