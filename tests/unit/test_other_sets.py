"""The sets that are no norm balls, the attacks on them, and one perturbation for all images."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import holdfast
from holdfast import keys
from holdfast.ascent.inner import worst
from holdfast.ascent.state import Rows
from holdfast.attacks.adversarial_patch import AdversarialPatch
from holdfast.attacks.spatial_gradient import SpatialGradient
from holdfast.attacks.spatial_grid import SpatialGrid
from holdfast.attacks.spatial_random import SpatialRandom
from holdfast.audit import plan
from holdfast.audit.transfer import transfer_matrix
from holdfast.audit.universal import universal
from holdfast.audit.verify import Verified, verify
from holdfast.data.load import load as load_data
from holdfast.foundation.errors import BadData, BadValue
from holdfast.models.load import load as load_model
from holdfast.records.store import FINAL_POINTS
from holdfast.report import wording
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.patch import Patch
from holdfast.threats.spatial import SHIFT, Spatial

DTYPES = [torch.float32, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """8-bit images: about a fifth of their pixels are exactly 0 or 1."""
    levels = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.2 - 0.1
    return (levels.clamp(0, 1) * 255).round().to(dtype) / 255


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)


def windows(height: int, width: int, side: int) -> list[Tensor]:
    """Every window of a patch, as masks (H, W)."""
    high, wide = min(side, height), min(side, width)
    found = []
    for top, left in itertools.product(range(height - high + 1), range(width - wide + 1)):
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top : top + high, left : left + wide] = True
        found.append(mask)
    return found


# Patch.


@given(
    side=st.integers(0, 6),
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)),
    scale=st.sampled_from([1e-3, 0.5, 5.0, 1e4, 1e19]),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=150, deadline=None)
def test_a_patch_is_projected_onto_the_best_window(side, shape, scale, seed, dtype):
    threat, x0 = Patch(side), images(seed, *shape, dtype=dtype)
    x = x0 + scale * noise(seed, *shape, dtype=dtype)
    p = threat.project(x0, x)
    assert p.shape == x.shape and p.dtype == dtype and torch.equal(threat.project(x0, p), p)
    assert (threat.distance(x0, p) <= side).all() and ((p >= 0) & (p <= 1)).all()
    assert torch.equal(threat.project(x0, x0), x0)
    for i in range(len(x0)):
        assert torch.equal(threat.project(x0[i : i + 1], x[i : i + 1])[0], p[i])
        assert torch.equal(threat.steepest((x - x0)[i : i + 1])[0], threat.steepest(x - x0)[i])
        boxed = x[i].clamp(0, 1)
        gain = ((boxed - x0[i]).double() * ((x[i] - x0[i]).double() + (x[i] - boxed).double())).sum(0)
        got = float(gain[(p[i] != x0[i]).any(0)].sum())
        best = max(float(gain[mask].sum()) for mask in windows(*shape[2:], side)) if side else 0.0
        assert got == pytest.approx(best, rel=1e-6, abs=1e-12)


@each_dtype
def test_a_patch_takes_a_radius_per_row(dtype):
    x0 = images(1, 5, 3, 6, 4, dtype=dtype)
    x, radius = x0 + noise(1, 5, 3, 6, 4, dtype=dtype), torch.tensor([0, 1, 2, 4, 9])
    key = keys.fold(keys.root(1), torch.arange(5))
    p, s = (Patch(1).project(x0, x, radius=radius), Patch(1).sample(x0, key, radius=radius))
    assert (Patch(1).distance(x0, s) <= radius).all() and torch.equal(p[0], x0[0]) and torch.equal(s[0], x0[0])
    for i, side in enumerate(radius.tolist()):
        assert torch.equal(p[i], Patch(side).project(x0[i : i + 1], x[i : i + 1])[0])
    assert torch.equal(p[4], x[4].clamp(0, 1))


def test_a_tiny_change_next_to_a_large_one_is_kept():
    x0 = torch.full((1, 1, 5, 5), 0.5, dtype=torch.float64)
    x = x0.clone()
    x[0, 0, 1, 1], x[0, 0, 2, 2] = 1.0, 0.5 + 1e-10
    assert torch.equal(Patch(2).project(x0, x), x)


@each_dtype
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_steepest_patch_is_the_window_of_the_largest_gradients(dtype, scale):
    grad = noise(2, 4, 3, 6, 7, dtype=dtype)
    grad[1] = 0
    step = Patch(3).steepest(grad * scale)
    assert torch.equal(step[1], torch.zeros_like(step[1])) and set(step.unique().tolist()) == {-1.0, 0.0, 1.0}
    size = grad.double().abs().sum(1)
    for i in (0, 2, 3):
        rises = [float(size[i][mask].sum()) for mask in windows(6, 7, 3)]
        assert float((step[i] * grad[i]).sum()) == pytest.approx(max(rises), rel=1e-5)
        assert torch.equal((step[i] != 0).any(0), windows(6, 7, 3)[int(np.argmax(rises))])
    assert Patch(3).stride(10) == 1.0


def test_patches_are_sampled_everywhere():
    x0 = torch.full((2000, 1, 4, 5), 0.5, dtype=torch.float64)
    key = keys.fold(keys.root(3), torch.arange(2000))
    x = Patch(2).sample(x0, key)
    changed = (x != x0)[:, 0]
    assert (Patch(2).distance(x0, x) == 2).all() and (changed.flatten(1).sum(1) == 4).all()
    corner = [tuple(one.nonzero()[0].tolist()) for one in changed]
    shares = [corner.count(place) / 2000 for place in itertools.product(range(3), range(4))]
    assert max(abs(share - 1 / 12) for share in shares) < 0.03
    assert torch.equal(Patch(2).sample(x0[:5], key[:5]), x[:5])


def test_the_size_of_a_patch_is_the_larger_extent_of_the_change():
    x0 = torch.zeros(1, 3, 5, 7)
    x = x0.clone()
    assert float(Patch(1).distance(x0, x)) == 0
    x[0, 2, 1, 2] = 1
    assert float(Patch(1).distance(x0, x)) == 1
    x[0, 0, 3, 6] = 0.1
    assert float(Patch(1).distance(x0, x)) == 5
    empty = torch.zeros(0, 3, 4, 4)
    assert Patch(2).project(empty, empty).shape == Patch(2).steepest(empty).shape == empty.shape


def test_patches_are_measured_in_pixels():
    assert Patch("5px").eps == Patch("5").eps == Patch(5.0).eps == 5 and Patch(5).name == "patch"
    for given_, says in ((2.5, "whole"), ("3deg", "px"), (-1, "px"), (True, "px")):
        with pytest.raises(BadValue) as caught:
            Patch(given_)
        assert says in caught.value.hint


class OnePlace(nn.Module):
    """Class 1 where the pixel at (row, column) is brighter than 0.7."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, self.row, self.column].mean(1)
        return torch.stack([0.7 - seen, seen - 0.7], 1)


def test_the_gradient_finds_the_place_of_the_patch():
    net, x, y = OnePlace(6, 1), torch.full((8, 3, 12, 12), 0.2), torch.zeros(8, dtype=torch.int64)
    found = AdversarialPatch(steps=6, restarts=1, candidates=300)(net, x, y, threat=Patch(2))
    assert found.fooled.all() and (found.distance <= 2).all()
    blind = AdversarialPatch(steps=6, restarts=1, candidates=1)(net, x, y, threat=Patch(2))
    assert not blind.fooled.all()
    many = AdversarialPatch(steps=6, restarts=100, candidates=1)(net, x, y, threat=Patch(2))
    assert many.fooled.sum() > blind.fooled.sum()


def test_a_patch_reaches_the_best_corner_of_the_colours():
    """A linear score over one window that is the whole image: the best colours are known."""
    weight = noise(3, 2, 27)
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 2, bias=False)).double()
    net[1].weight.data = weight
    x = images(4, 6, 3, 3, 3)
    logits = net(x)
    y = torch.full((6,), int(logits.sum(0).argmax()))
    difference = weight[1 - y[0]] - weight[y[0]]
    most = float(difference.clamp_min(0).sum())
    net[1].bias = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    net[1].bias.data[y[0]] = 100  # nothing fools: the best point is kept
    found = AdversarialPatch(steps=20, restarts=1, loss="margin", schedule="constant")(net, x, y, threat=Patch(3))
    torch.testing.assert_close(found.value, torch.full_like(found.value, most - 100))


# Spatial.


@each_dtype
@pytest.mark.parametrize("shape", [(3, 3, 6, 6), (2, 1, 5, 8), (2, 3, 1, 4), (1, 1, 7, 1)], ids=str)
def test_no_transformation_leaves_every_bit(shape, dtype):
    x0, threat = images(0, *shape, dtype=dtype), Spatial(30)
    origin = threat.origin(x0)
    assert torch.equal(threat.render(x0, origin), x0) and (threat.distance(x0, origin) == 0).all()
    assert torch.equal(threat.render(x0[:0], origin[:0]), x0[:0])


def test_images_are_turned_and_shifted_as_by_numpy():
    x0 = images(1, 2, 3, 8, 8)
    degrees = lambda angle, right, down: torch.tensor([angle, right, down], dtype=torch.float64).view(1, 3, 1, 1)
    pixel = 1 / (SHIFT * 8)
    threat = Spatial(180)
    for turns in (1, 2, 3):
        p = degrees(90.0 * turns, 0, 0).expand(2, -1, -1, -1)
        expected = np.rot90(x0.numpy(), -turns, axes=(2, 3)).copy()
        torch.testing.assert_close(threat.render(x0, p), torch.tensor(expected), rtol=0, atol=1e-12)
    shifted = threat.render(x0, degrees(0, 2 * pixel, -3 * pixel).expand(2, -1, -1, -1))
    expected = torch.zeros_like(x0)
    expected[:, :, :5, 2:] = x0[:, :, 3:, :6]
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-12)


@each_dtype
def test_images_are_turned_as_by_grid_sample(dtype):
    x0, threat = images(2, 8, 3, 9, 9, dtype=dtype), Spatial(40)
    p = threat.sample(x0, keys.fold(keys.root(0), torch.arange(8)))
    angle = p[:, 0, 0, 0] * math.pi / 180
    right, down = p[:, 1, 0, 0] * 2 * SHIFT, p[:, 2, 0, 0] * 2 * SHIFT
    c, s = angle.cos(), angle.sin()
    matrix = torch.stack([c, s, -c * right - s * down, -s, c, s * right - c * down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x0.shape), align_corners=False)
    expected = F.grid_sample(x0, grid, align_corners=False, padding_mode="zeros")
    torch.testing.assert_close(threat.render(x0, p), expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-12)


def test_the_rendering_has_the_gradient_of_its_differences():
    x0, threat = images(3, 3, 2, 6, 5), Spatial(30)
    p = threat.sample(x0, keys.fold(keys.root(4), torch.arange(3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: threat.render(0.2 + 0.5 * x0, q), (p,), eps=1e-7, atol=1e-5)


def test_spatial_points_are_three_intervals():
    x0, threat = images(4, 500, 1, 4, 4), Spatial(30)
    key = keys.fold(keys.root(2), torch.arange(500))
    p = threat.sample(x0, key)
    assert p.shape == (500, 3, 1, 1) and torch.equal(p[7:9], threat.sample(x0[7:9], key[7:9]))
    assert 29 < float(p.amax()) <= 30 and -30 <= float(p.amin()) < -29 and float(p.mean().abs()) < 2
    far = threat.project(x0, 10 * p)
    assert torch.equal(far, (10 * p).clamp(-30, 30)) and (threat.distance(x0, far) <= 30).all()
    assert torch.equal(threat.project(x0, p), p)
    assert torch.equal(threat.project(x0, p, radius=torch.full((500,), 3.0)), p.clamp(-3, 3))
    assert math.isclose(SHIFT * 30, 3 / 28)


def test_spatial_radii_are_degrees():
    assert Spatial("30deg").eps == Spatial("30").eps == 30 and Spatial(30).name == "spatial"
    for given_ in (181, "30px", -1, "abc"):
        with pytest.raises(BadValue) as caught:
            Spatial(given_)
        assert "deg" in caught.value.hint


class Upright(nn.Module):
    """Class 1 where more light lies in the middle row than ``share`` of that in the middle column."""

    def forward(self, x: Tensor) -> Tensor:
        middle = x.shape[2] // 2
        row, column = x[:, 0, middle - 1 : middle + 2].sum((1, 2)), x[:, 0, :, middle - 1 : middle + 2].sum((1, 2))
        return torch.stack([column, row], 1)


def bars() -> tuple[Tensor, Tensor]:
    """Upright bars: class 0 until they are turned by more than 45 degrees."""
    x = torch.zeros(4, 1, 15, 15, dtype=torch.float64)
    x[:, :, 2:13, 6:9] = torch.tensor([0.4, 0.6, 0.8, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    return x, torch.zeros(4, dtype=torch.int64)


ATTACKS = [SpatialGrid(angles=15, shifts=3), SpatialRandom(draws=60), SpatialGradient(steps=10, restarts=4)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_a_bar_falls_when_it_may_be_turned_far_enough(attack):
    x, y = bars()
    wide, narrow = (attack(Upright(), x, y, threat=Spatial(eps)) for eps in (80, 10))
    assert wide.fooled.all() and not narrow.fooled.any()
    assert (wide.distance > 30).all() and (wide.distance <= 80).all() and (narrow.distance <= 10).all()
    assert wide.x.shape == x.shape and wide.x.min() >= 0 and wide.x.max() <= 1
    assert (wide.backwards == 0).all() == (attack.needs == "scores")


def test_the_grid_is_searched_as_a_whole():
    """As many evaluations as it has points, and the largest loss of all of them where nothing fools."""
    x, y = bars()
    attack, threat = SpatialGrid(angles=5, shifts=3), Spatial(20)
    found = attack(Upright(), x, y, threat=threat)
    assert (found.forwards == 1 + 45).all() and attack.steps_on(threat) == 44
    values = torch.linspace(-1, 1, 3, dtype=torch.float64)
    points = 20 * torch.cartesian_prod(torch.linspace(-1, 1, 5, dtype=torch.float64), values, values)
    losses = []
    for point in points:
        logits = Upright()(threat.render(x, point.view(1, 3, 1, 1).expand(4, -1, -1, -1)))
        losses.append(logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(found.value, torch.stack(losses).amax(0))
    single = SpatialGrid(angles=1, shifts=1)(Upright(), x, y, threat=threat)
    assert torch.equal(single.x, x) and (single.distance == 0).all()


def test_worst_of_k_begins_with_worst_of_fewer():
    x, y = bars()
    few, many = (SpatialRandom(draws=k)(Upright(), x, y, threat=Spatial(40), seed=5) for k in (2, 12))
    assert (many.value >= few.value).all() and (many.value > few.value).any()
    assert (few.forwards == 3).all()


def test_a_gradient_ascends_the_parameters():
    x, y = bars()
    attack, threat = SpatialGradient(steps=8, restarts=1, schedule="cosine"), Spatial(30)
    found = attack(Upright(), x, y, threat=threat)
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0), torch.arange(4)), threat)
    begun = attack.begin(Upright(), rows)
    assert begun.x.shape == begun.best.shape == (4, 3, 1, 1)
    assert (found.backwards == 8).all() and (found.forwards == 1 + 8 + 1).all()


def test_a_spatial_run_is_audited_and_verified(tmp_path):
    x, y = bars()
    net = nn.Sequential(Upright())
    report = holdfast.audit(net, (x.float(), y), threat=Spatial(80), curve=[10], plan="spatial", out=tmp_path / "run")
    assert report.robust_accuracy == 0 and report.points.shape == x.shape
    assert "black box beats white box" not in {finding.check for finding in report.warnings}
    source = load_data((x.float(), y))
    model = load_model(net, shape=source.shape)
    assert verify(tmp_path / "run", model, source) == Verified(points=4, upheld=4, refuted=(), claimed=4, found=4)
    file = tmp_path / "run" / FINAL_POINTS
    stored = load_file(file)
    stored["points"][1], stored["points"][2] = x[1].float(), 1.5
    save_file(stored, file)
    assert verify(tmp_path / "run", model, source).refuted == (
        (1, "is classified correctly"),
        (2, "has pixels outside [0, 1]"),
    )


def test_the_new_sets_are_said_in_words():
    assert "80°" in wording.change("spatial", 80) and "28.6" in wording.change("spatial", 80)
    assert "5 by 5 pixels" in wording.change("patch", 5)


def test_training_and_transfer_see_images():
    """Where a search ends outside the engine, its parameters are turned into images, too."""
    x, y = bars()
    attack, threat = SpatialGradient(steps=6, restarts=2), Spatial(80)
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0), torch.arange(4)), threat)
    seen = worst(attack, Upright(), rows)
    assert seen.shape == x.shape and not torch.equal(seen, x)
    matrix = transfer_matrix({"one": Upright(), "two": nn.Sequential(Upright())}, x, y, attack, threat)
    assert torch.equal(matrix.fooled, torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(("name", "threat"), [("quick", Spatial(30)), ("fast", Patch(5)), ("spatial", Linf(0.1))])
def test_a_plan_for_other_sets_is_refused(name, threat):
    with pytest.raises(BadValue) as caught:
        plan.named(name, threat)
    assert "plans for" in caught.value.hint


# Universal perturbations.


def blobs(count: int = 120) -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes that a linear net tells apart by their mean: one direction moves every image of a class."""
    y = torch.arange(count) % 2
    x = (0.5 + 0.05 * (2 * y - 1)[:, None, None, None] + 0.03 * noise(0, count, 1, 4, 4)).clamp(0, 1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    net[1].weight.data = torch.stack([-torch.ones(16), torch.ones(16)]).double()
    net[1].bias.data = torch.tensor([8.0, -8.0], dtype=torch.float64)
    return net, x, y


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.8)], ids=lambda threat: threat.name)
def test_one_perturbation_fools_one_class_of_two(threat):
    """Of two classes on either side of a plane, one step takes one across, and the other further away."""
    net, x, y = blobs()
    found = universal(net, x, y, threat, steps=20, batch=16)
    assert (
        found.delta.shape == x.shape[1:] and float(threat.distance(x[:1] * 0, found.delta[None])) <= threat.eps + 1e-12
    )
    assert 0.3 < found.held_out.value < 0.7 and found.made.n + found.held_out.n == len(x)
    assert found.held_out.low < found.held_out.value < found.held_out.high
    one = universal(net, x[y == 0], y[y == 0], threat, steps=20, batch=16)
    assert one.made.value == one.held_out.value == 1
    moved = (x[y == 0] + one.delta).clamp(0, 1)
    assert (net(moved).argmax(1) == 1).all()


def test_a_universal_perturbation_repeats_itself_and_touches_nothing():
    net, x, y = blobs()
    net.train()
    before = torch.get_rng_state()
    first, again, other = (universal(net, x, y, Linf(0.04), steps=5, batch=8, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.delta, again.delta) and first.made == again.made and first.held_out == again.held_out
    assert not torch.equal(first.delta, other.delta) or first.made != other.made
    assert torch.equal(torch.get_rng_state(), before) and net.training and net[1].weight.grad is None
    assert first.backwards == 5 * 8 and first.forwards == 2 * len(x) + 5 * 8


def test_a_universal_perturbation_refuses_what_it_cannot_do():
    net, x, y = blobs()
    with pytest.raises(BadValue, match="l1"):
        universal(net, x, y, L1(3.0))
    for options in ({"steps": 0}, {"batch": 0}, {"held_out": 1.0}):
        with pytest.raises(BadValue):
            universal(net, x, y, Linf(0.1), **options)
    with pytest.raises(BadData, match="correctly"):
        universal(net, x, 1 - y, Linf(0.1))
