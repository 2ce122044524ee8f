"""Every set S: projections, directions, samples, radii; projections are checked against independent solutions."""

from __future__ import annotations

import bisect
import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import keys
from holdfast.foundation.errors import BadValue
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

SETS = [Linf(0.1), L2(0.7), L1(3.0), L0(3)]
DTYPES = [torch.float32, torch.float64]
RADII = {"linf": st.floats(0, 1), "l2": st.floats(0, 4), "l1": st.floats(0, 30), "l0": st.integers(0, 30)}
SLACK = {torch.float32: 1e-6, torch.float64: 1e-12}

each_set = pytest.mark.parametrize("threat", SETS, ids=lambda threat: threat.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """8-bit images: about a fifth of their pixels are exactly 0 or 1."""
    levels = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.2 - 0.1
    return (levels.clamp(0, 1) * 255).round().to(dtype) / 255


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)


@st.composite
def problems(draw, scales=(1e-3, 0.05, 0.5, 5.0, 1e4), most=4):
    """A threat, clean images, and points to project."""
    name = draw(st.sampled_from(["linf", "l2", "l1", "l0"]))
    threat = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}[name](draw(RADII[name]))
    dtype = draw(st.sampled_from(DTYPES))
    shape = (
        draw(st.integers(0, most)),
        draw(st.sampled_from([1, 3])),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
    )
    seed = draw(st.integers(0, 2**31))
    x0 = images(seed, *shape, dtype=dtype)
    return threat, x0, x0 + draw(st.sampled_from(scales)) * noise(seed, *shape, dtype=dtype)


def reference(threat: Threat, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The projection of one image: the multiplier by bisection (L2), in rational numbers (L1), or all subsets (L0)."""
    size, sign = (x - x0).abs().double(), (x - x0).sign().double()
    limit = torch.where(sign > 0, 1 - x0.double(), x0.double())
    if threat.name == "linf":
        moved = torch.minimum(size, limit).clamp(max=threat.eps)
    elif threat.name == "l2":
        unit = size / size.max().clamp_min(1e-300)
        moved = bisected(threat.eps, lambda t: torch.minimum(t * unit, limit), torch.norm, float(size.max()))
    elif threat.name == "l1" and size.numel() > 100:
        gap = size.max() - size
        moved = bisected(threat.eps, lambda t: torch.minimum((t - gap).relu(), limit), torch.sum, float(size.max()))
    elif threat.name == "l1":
        moved = rational(threat.eps, size, limit)
    else:
        best = max(subsets(x0, int(threat.eps)), key=lambda mask: saved(x0, x, mask))
        return torch.where(best, x.clamp(0, 1), x0)
    return (x0.double() + sign * moved).to(x0.dtype)


def bisected(eps: float, moved, length, most: float) -> torch.Tensor:
    """``moved(t)``, growing in t, of ``length`` eps; or at t = ``most`` if it is shorter there."""
    low, high = 0.0, most
    if float(length(moved(most))) > eps:
        for _ in range(200):
            t = (low + high) / 2
            low, high = (t, high) if float(length(moved(t))) <= eps else (low, t)
        high = low
    return moved(high)


def rational(eps: float, size: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """``clip(size - s, 0, limit)`` with the sum ``eps`` (or s = 0), solved for s without any rounding."""
    pairs = [(Fraction(a), Fraction(c)) for a, c in zip(size.flatten().tolist(), limit.flatten().tolist())]
    total = lambda s: sum(min(max(a - s, Fraction(0)), c) for a, c in pairs)
    s = Fraction(0)
    if total(s) > eps:
        kinks = sorted({Fraction(0), *(a for a, _ in pairs), *(a - c for a, c in pairs if a > c)})
        place = bisect.bisect_left(kinks, True, key=lambda kink: total(kink) <= eps)
        left, right = kinks[place - 1], kinks[place]
        s = left + (total(left) - Fraction(eps)) * (right - left) / (total(left) - total(right))
    return torch.tensor([float(min(max(a - s, Fraction(0)), c)) for a, c in pairs], dtype=torch.float64).view_as(size)


def subsets(x0: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Every choice of ``count`` pixels, as masks (H, W)."""
    places, masks = range(x0[0].numel()), []
    for chosen in itertools.combinations(places, min(count, len(places))):
        mask = torch.zeros(len(places), dtype=torch.bool)
        mask[list(chosen)] = True
        masks.append(mask.view(x0.shape[1:]))
    return masks


def saved(x0: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> Fraction:
    """By how much changing the pixels of ``mask`` reduces the squared distance to ``x``, without rounding."""
    parts = [one[:, mask].flatten().tolist() for one in (x0, x, x.clamp(0, 1))]
    return sum(
        ((Fraction(b) - Fraction(a)) ** 2 - (Fraction(b) - Fraction(c)) ** 2 for a, b, c in zip(*parts)), Fraction(0)
    )


def excess(threat: Threat, x0: torch.Tensor, x: torch.Tensor) -> float:
    """By how much ``x`` is outside ball or box, in float64; 0 inside."""
    if not len(x0):
        return 0.0
    away = threat.distance(x0.double(), x.double()).max() - threat.eps
    return max(0.0, float(away), float(-x.min()), float(x.max()) - 1)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_projection_is_inside_idempotent_and_leaves_inner_points(problem):
    threat, x0, x = problem
    p = threat.project(x0, x)
    assert p.shape == x.shape and p.dtype == x.dtype
    assert excess(threat, x0, p) <= SLACK[x.dtype] * max(1.0, threat.eps)
    torch.testing.assert_close(threat.project(x0, p), p, rtol=0, atol=SLACK[x.dtype])
    # Well inside, nothing moves by a single bit.
    if len(x0) and threat.name != "l0":
        inner = x0 + 0.5 * (p - x0)
        assert torch.equal(threat.project(x0, inner), inner)
    if threat.name == "l0":
        assert torch.equal(threat.project(x0, p), p)
    assert torch.equal(threat.project(x0, x0), x0)


@given(problems(most=1))
@settings(max_examples=120, deadline=None)
def test_projection_is_the_nearest_point(problem):
    threat, x0, x = problem
    if not len(x0) or (
        threat.name == "l0" and math.comb(x0[0, 0].numel(), min(int(threat.eps), x0[0, 0].numel())) > 500
    ):
        return
    p, best = threat.project(x0, x), reference(threat, x0[0], x[0])[None]
    if threat.name == "l0":  # two subsets can be equally good
        gains = [float(saved(x0[0], x[0], (one[0] != x0[0]).any(0))) for one in (p, best)]
        assert gains[0] == pytest.approx(gains[1], rel=1e-6, abs=1e-9)
    else:
        # What x - x0 loses in rounding is of the size of x, whoever computes it.
        atol = (2e-6 if x.dtype == torch.float32 else 1e-11) * max(1.0, float(x.abs().max()))
        torch.testing.assert_close(p, best, rtol=0, atol=atol)


@given(problems(scales=(0.5, 5.0)), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_no_random_feasible_point_is_nearer(problem, seed):
    threat, x0, x = problem
    if not len(x0):
        return
    p = threat.project(x0, x).double()
    x0, x = x0.double(), x.double()
    key = keys.fold(keys.root(seed), torch.arange(len(x0)))
    others = [threat.sample(x0, key)]
    for size in (1e-3, 0.1):
        near = (p + size * noise(seed, *x0.shape)).clamp(0, 1)
        if threat.name == "l0":
            near = torch.where((p != x0).any(1, keepdim=True), near, x0)
        elif threat.name == "linf":
            near = near.clamp(x0 - threat.eps, x0 + threat.eps)
        else:  # shrinking towards x0 keeps the box
            length = threat.distance(x0, near).clamp_min(1e-300)
            near = x0 + (threat.eps / length).clamp_max(1)[:, None, None, None] * (near - x0)
        others.append(near)
    gap = (x - p).flatten(1).norm(dim=1)
    for other in others:
        assert (gap <= (x - other).flatten(1).norm(dim=1) + 1e-6).all()


@given(problems(scales=(1e-3, 0.5, 5.0)))
@settings(max_examples=100, deadline=None)
def test_rows_do_not_depend_on_their_neighbours(problem):
    threat, x0, x = problem
    if len(x0) > 1:  # one row inside, the others outside: rounding must not tell
        x[0] = (x0[0] + 1e-3 * (x[0] - x0[0])).clamp(0, 1)
    p = threat.project(x0, x)
    for i in range(len(x0)):
        assert torch.equal(threat.project(x0[i : i + 1], x[i : i + 1])[0], p[i])
        assert torch.equal(threat.steepest((x - x0)[i : i + 1])[0], threat.steepest(x - x0)[i])


@given(problems(scales=(0.5,)), st.lists(st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0]), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_radius_per_row_stands_in_for_eps(problem, factors):
    threat, x0, x = problem
    radius = torch.tensor(factors[: len(x0)], dtype=x0.dtype) * (1 if threat.name != "linf" else 0.3)
    radius = radius.floor() if threat.name == "l0" else radius
    p = threat.project(x0, x, radius=radius)
    s = threat.sample(x0, keys.fold(keys.root(1), torch.arange(len(x0))), radius=radius)
    for i, one in enumerate(radius.tolist()):
        assert torch.equal(p[i], threat.project(x0[i : i + 1], x[i : i + 1], radius=one)[0])
        torch.testing.assert_close(p[i], threat.resized(one).project(x0[i : i + 1], x[i : i + 1])[0], rtol=0, atol=1e-6)
        assert excess(threat.resized(one), x0[i : i + 1], s[i : i + 1]) <= 1e-6


@each_dtype
@each_set
@pytest.mark.parametrize("scale", [1e10, 1e19, 1e30])
def test_huge_points_are_projected_exactly(threat, dtype, scale):
    x0 = images(0, 6, 3, 2, 3, dtype=dtype)
    x = scale * noise(0, 6, 3, 2, 3, dtype=dtype)
    x[1] = scale  # all equal
    x[2, :, 0] = scale  # a few huge, the others small
    x[2, :, 1] = x0[2, :, 1] + 0.01
    x[3] = x[3].sign() * scale
    p = threat.project(x0, x)
    assert excess(threat, x0, p) <= 1e-6
    for i in range(6):
        best = reference(threat, x0[i], x[i])
        if threat.name == "l0":
            gains = [float(saved(x0[i], x[i], (one != x0[i]).any(0))) for one in (p[i], best)]
            assert gains[0] == pytest.approx(gains[1], rel=1e-6)
        else:
            torch.testing.assert_close(p[i], best, rtol=0, atol=2e-6)


@each_dtype
@pytest.mark.parametrize("threat", [L2(3.0), L1(0.5), L1(12.0), L1(200.0), Linf("4/255")], ids=str)
def test_large_images(threat, dtype):
    x0 = images(5, 2, 3, 96, 96, dtype=dtype)
    for scale in (0.01, 1.0):
        x = x0 + scale * noise(5, 2, 3, 96, 96, dtype=dtype)
        p = threat.project(x0, x)
        best = reference(threat, x0[0], x[0])
        torch.testing.assert_close(p[0], best, rtol=0, atol=3e-6 if dtype == torch.float32 else 1e-10)
        rounding = 1e-6 if dtype == torch.float32 else 1e-12
        assert excess(threat, x0, p) <= rounding * max(1.0, threat.eps)


@each_dtype
@each_set
def test_pixels_at_the_ends_of_the_box(threat, dtype):
    black, white = torch.zeros(1, 3, 4, 4, dtype=dtype), torch.ones(1, 3, 4, 4, dtype=dtype)
    assert torch.equal(threat.project(black, black - 0.3), black)
    assert torch.equal(threat.project(white, white + 0.3), white)
    up, down = threat.project(black, black + 0.9), threat.project(white, white - 0.9)
    torch.testing.assert_close(up, 1 - down, rtol=0, atol=SLACK[dtype])
    assert float(threat.distance(black, up)) == pytest.approx(threat.eps, rel=1e-6)
    # One pixel that cannot move leaves all of the radius to the others.
    x0 = black.clone()
    x0[..., 0] = 1
    x = x0 + 0.9
    assert float(threat.distance(x0, threat.project(x0, x))) == pytest.approx(threat.eps, rel=1e-6)


@each_dtype
@each_set
def test_empty_batches_and_radius_zero(threat, dtype):
    empty, none = torch.zeros(0, 3, 4, 4, dtype=dtype), torch.zeros(0, dtype=torch.int64)
    assert (
        threat.project(empty, empty).shape
        == threat.steepest(empty).shape
        == threat.sample(empty, none).shape
        == empty.shape
    )
    assert threat.distance(empty, empty).shape == (0,)
    assert threat.project(empty, empty, radius=torch.zeros(0, dtype=dtype)).shape == empty.shape
    point, x0 = threat.resized(0), images(1, 5, 3, 4, 4, dtype=dtype)
    assert point.eps == 0
    assert torch.equal(point.project(x0, x0 + noise(1, 5, 3, 4, 4, dtype=dtype)), x0)
    assert torch.equal(point.sample(x0, torch.arange(5)), x0)
    assert torch.equal(point.distance(x0, x0), torch.zeros(5, dtype=dtype))
    assert torch.isfinite(point.steepest(noise(1, 5, 3, 4, 4, dtype=dtype))).all()


@each_dtype
@each_set
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e8, 1e30])
def test_steepest_has_unit_length_and_ignores_the_scale(threat, dtype, scale):
    grad = noise(2, 4, 3, 8, 8, dtype=dtype)
    grad[1] = 0
    grad[2, :, :, 1:] = 0  # sparse
    grad[3] = 1  # all equal
    step = threat.steepest(grad * scale)
    assert torch.isfinite(step).all() and torch.equal(step[1], torch.zeros_like(step[1]))
    length = step.flatten(1)[[0, 2, 3]]
    if threat.name == "linf":
        assert (length.abs().amax(1) == 1).all() and torch.equal(step, grad.sign())
    elif threat.name == "l2":
        torch.testing.assert_close(length.norm(dim=1), torch.ones(3, dtype=dtype))
        torch.testing.assert_close(length[0] * grad[0].norm(), grad[0].flatten())
    elif threat.name == "l1":
        torch.testing.assert_close(length.abs().sum(1), torch.ones(3, dtype=dtype))
        largest = grad[0].flatten().abs().topk(2).indices  # 1 % of 192 values, rounded up
        assert set(length[0].nonzero()[:, 0].tolist()) == set(largest.tolist())
    else:
        assert ((step != 0).any(1).flatten(1).sum(1)[[0, 2, 3]] == threat.eps).all()
        assert set(step.unique().tolist()) == {-1.0, 0.0, 1.0}
        chosen = grad[0].abs().sum(0).flatten().topk(int(threat.eps)).indices
        assert set((step[0] != 0).any(0).flatten().nonzero()[:, 0].tolist()) == set(chosen.tolist())
    torch.testing.assert_close(step, threat.steepest(grad))
    assert ((step * grad).flatten(1).sum(1) >= 0).all()


@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.1), 1), (L2(0.7), 2)], ids=["linf", "l2"])
def test_no_unit_direction_rises_faster(threat, dual):
    grad = noise(3, 5, 3, 4, 4)
    rise = (threat.steepest(grad) * grad).flatten(1).sum(1)
    torch.testing.assert_close(rise, grad.flatten(1).norm(p=dual, dim=1))


def test_sparse_l1_directions_take_as_many_values_as_asked():
    grad = noise(4, 4, 3, 8, 8)
    step = L1(1.0).sparse(grad, torch.tensor([0.3, 1.0, 7.2, 1e9]))
    assert (step != 0).flatten(1).sum(1).tolist() == [1, 1, 8, 192]
    torch.testing.assert_close(step.abs().flatten(1).sum(1), torch.ones(4, dtype=step.dtype))


@each_dtype
@each_set
def test_samples_are_inside_and_depend_on_their_keys_only(threat, dtype):
    x0 = images(6, 8, 3, 6, 5, dtype=dtype)
    key = keys.fold(keys.root(7), torch.arange(8))
    before = torch.get_rng_state()
    x = threat.sample(x0, key)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.dtype == dtype and excess(threat, x0, x) <= 1e-6
    assert torch.equal(x, threat.sample(x0, key))
    for i in (0, 3, 7):
        assert torch.equal(threat.sample(x0[i : i + 1], key[i : i + 1])[0], x[i])
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    assert torch.equal(threat.sample(x0[order], key[order]), x[order])
    # Vectorised functions treat the end of a tensor differently: many rows at once, and one by one, must not tell.
    many, keyed = images(9, 71, 1, 3, 3, dtype=dtype), keys.fold(keys.root(2), torch.arange(71))
    together = threat.sample(many, keyed)
    for size in (1, 2, 5, 17):
        parts = [threat.sample(m, k) for m, k in zip(many.split(size), keyed.split(size))]
        assert torch.equal(torch.cat(parts), together)
    same = x0[:1].expand(8, -1, -1, -1)
    spread = threat.sample(same, key)
    assert len({tuple(one.flatten().tolist()) for one in spread}) == 8
    torch.testing.assert_close(threat.sample(x0.double(), key).to(dtype), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4), L1(0.4)], ids=lambda threat: threat.name)
def test_samples_are_uniform_in_a_ball_that_the_box_does_not_cut(threat):
    x0 = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    x = threat.sample(x0, keys.fold(keys.root(3), torch.arange(4000)))
    share = (threat.distance(x0, x) / threat.eps) ** 4  # a uniform point of a 4-dimensional ball: uniform in [0, 1]
    assert (share.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.63 / 4000**0.5
    assert ((x - x0).mean(0).abs() < 4 * (x - x0).std() / 4000**0.5).all()


def test_l0_samples_change_as_many_pixels_as_allowed():
    x0 = images(8, 200, 3, 4, 4)
    x = L0(5).sample(x0, keys.fold(keys.root(3), torch.arange(200)))
    assert (L0(5).distance(x0, x) == 5).all()
    share = (x != x0).any(1).double().mean(0)
    assert ((share - 5 / 16).abs() < 0.15).all()


def test_distances_by_hand():
    x0 = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    x = x0.clone()
    x[0, 0, 0, 0], x[0, 1, 0, 0], x[0, 2, 1, 1] = 0.3, 0.4, 1.0
    assert [float(t.distance(x0, x)) for t in SETS] == pytest.approx([1.0, 1.25**0.5, 1.7, 2.0])


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (Linf, "8/255", 8 / 255),
        (Linf, "0.03", 0.03),
        (L2, " 1/2 ", 0.5),
        (L1, 12, 12.0),
        (L0, "10", 10.0),
        (L0, 7.0, 7.0),
    ],
)
def test_eps_is_parsed(kind, given, value):
    threat = kind(given)
    assert threat.eps == value and isinstance(threat.eps, float)
    assert threat == kind(value) and hash(threat) == hash(kind(value))
    assert threat.resized("0").eps == 0 and threat.name == kind.__name__.lower()


@pytest.mark.parametrize("kind", [Linf, L2, L1, L0])
@pytest.mark.parametrize("given", ["abc", "", -1, "-8/255", math.nan, math.inf, None, True, "1/0", "8px"])
def test_bad_radii_are_refused_with_a_hint(kind, given):
    with pytest.raises(BadValue) as caught:
        kind(given)
    assert caught.value.hint and "eps" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "given", "says"), [(Linf, 8, "8/255"), (Linf, "8", "8/255"), (L0, 0.5, "pixel"), (L0, "8/255", "pixel")]
)
def test_radii_in_other_units_are_refused_with_the_right_way_to_write_them(kind, given, says):
    with pytest.raises(BadValue) as caught:
        kind(given)
    assert says in caught.value.hint
