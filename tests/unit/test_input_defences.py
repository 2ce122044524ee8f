"""Defences that change the image alone: their views against definitions in other words, their gradients, their draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import ndimage, optimize
from torch import Tensor, nn
from torch.nn import functional

from holdfast import keys
from holdfast.ascent.expected import expected_worst
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.defences.bit_depth import BitDepth
from holdfast.defences.crop_and_resize import CropAndResize
from holdfast.defences.feature_squeezing import FeatureSqueezing
from holdfast.defences.gaussian_noise import GaussianNoise
from holdfast.defences.jpeg_compression import JpegCompression
from holdfast.defences.median import Median
from holdfast.defences.purifier import Purifier
from holdfast.defences.random_rotation import RandomRotation, turned
from holdfast.defences.resize_and_pad import ResizeAndPad
from holdfast.defences.total_variation import TotalVariation, flattened
from holdfast.defences.viewed import ViewDefence
from holdfast.foundation.errors import BadData, BadModel, BadValue
from holdfast.imaging.jpeg import by_pillow
from holdfast.imaging.squeezing import median
from holdfast.threats.linf import Linf

RANDOM = [
    GaussianNoise(num_draws=7),
    RandomRotation(num_draws=7),
    ResizeAndPad(num_draws=7),
    CropAndResize(num_draws=7),
    TotalVariation(num_draws=7, steps=5),
]
FIXED = [JpegCompression(), BitDepth(), Median(), FeatureSqueezing(), TotalVariation(keep=1, steps=5)]


def images(count: int, seed: int = 0, size: tuple[int, int] = (12, 10), channels: int = 3) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(count: int) -> Tensor:
    return keys.fold(keys.root(3), torch.arange(count))


def net(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, classes)
        )
        module[4].weight.data.mul_(20)
        return module.double().eval()


def named(defence: ViewDefence) -> str:
    return type(defence).__name__


@pytest.mark.parametrize("defence", RANDOM, ids=named)
def test_the_answer_is_the_logarithm_of_the_mean_probability_of_the_views(defence: ViewDefence) -> None:
    module, x = net(), images(8, size=(40, 36))  # more than one stack
    wrapped, ids = defence.wrap(module), torch.arange(8) + 5
    key = keys.fold(keys.fold(keys.fold(keys.fold(keys.root(0), keys.number(_name(defence))), 2), ids)[:, None],
                    torch.arange(7))  # fmt: skip
    mean = torch.stack([module(defence.view(x, key[:, draw])).softmax(1) for draw in range(7)]).mean(0)
    torch.testing.assert_close(wrapped.at(2)(x, ids).exp(), mean, rtol=1e-9, atol=1e-12)
    assert defence.forwards() == 7


def _name(defence: ViewDefence) -> str:
    return type(defence).__module__.rpartition(".")[2]


@pytest.mark.parametrize("defence", RANDOM, ids=named)
def test_draws_are_those_of_the_seed_the_evaluation_and_the_sample(defence: ViewDefence) -> None:
    wrapped, x, ids = defence.wrap(net()), images(5), torch.arange(5)
    whole = wrapped.at(1)(x, ids)
    parts = torch.cat([wrapped.at(1)(x[3:], ids[3:]), wrapped.at(1)(x[:3], ids[:3])]).roll(3, 0)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    others = wrapped.at(2)(x, ids), wrapped.at(1)(x, ids + 5), replace(defence, seed=1).wrap(net()).at(1)(x, ids)
    assert not any(torch.allclose(whole, other, atol=1e-6) for other in others)
    twins = wrapped(x[:1].expand(2, -1, -1, -1))
    assert torch.equal(twins[0], twins[1]), "without ids all images share the draws"


@pytest.mark.parametrize("defence", FIXED, ids=named)
def test_what_draws_nothing_is_the_same_in_all_evaluations(defence: ViewDefence) -> None:
    wrapped, x = defence.wrap(net()), images(3)
    assert defence.forwards() == 1
    assert torch.equal(wrapped.at(4)(x, torch.arange(3)), wrapped(x))
    torch.testing.assert_close(wrapped(x), net()(defence.view(x, drawn(3))).log_softmax(1))


@pytest.mark.parametrize("defence", [JpegCompression(), BitDepth(), Purifier(torch.sign, ("straight_through",))])
def test_gradients_pass_straight_through_what_is_flat(defence: ViewDefence) -> None:
    module, x = net(), images(2).requires_grad_()
    views = defence.view(x, drawn(2)).detach().requires_grad_()
    expected = torch.autograd.grad(module(views).log_softmax(1)[:, 0].sum(), views)[0]
    core, defended = defence.openings(module)
    logits = defended.classifier(x)
    assert core.classifier is module and torch.equal(logits, defence.wrap(module)(x))
    torch.testing.assert_close(torch.autograd.grad(logits[:, 0].sum(), x)[0], expected)


@pytest.mark.parametrize("defence", [Median(3), TotalVariation(keep=1, steps=5), FeatureSqueezing(bits=8)], ids=named)
def test_what_has_a_derivative_has_two_openings_with_the_same_answers(defence: ViewDefence) -> None:
    x = images(2).requires_grad_()
    _, true, straight = defence.openings(net())
    assert (true.name, straight.name) == ("defended", "straight_through")
    a, b = true.classifier(x), straight.classifier(x)
    assert torch.equal(a, b)
    (one,), (other,) = (torch.autograd.grad(out[:, 0].sum(), x) for out in (a, b))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("defence", [*RANDOM[:4], TotalVariation(steps=5), Median(2), Median(3)], ids=named)
def test_the_derivative_of_a_view_is_its_own(defence: ViewDefence) -> None:
    x, key = images(1, size=(5, 6)).requires_grad_(), drawn(1)
    assert torch.autograd.gradcheck(lambda x: defence.view(x, key), x, eps=1e-6, atol=1e-4, fast_mode=True)


def test_noise_is_normal_and_not_clipped() -> None:
    x = torch.zeros(20, 3, 32, 32)
    noise = GaussianNoise(sigma=0.1).view(x, drawn(20))
    assert abs(float(noise.mean())) < 0.002 and abs(float(noise.std()) - 0.1) < 0.002


@pytest.mark.parametrize("size", [(7, 7), (8, 8)])
def test_a_quarter_turn_is_exact_and_small_turns_stay_within_their_angle(size: tuple[int, int]) -> None:
    x = images(3, size=size)
    turns = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[:, None, None] * torch.pi
    expected = torch.stack([x[0], x[1].rot90(-1, (1, 2)), x[2].rot90(2, (1, 2))])
    torch.testing.assert_close(turned(x, turns), expected, rtol=0, atol=1e-12)
    spot = torch.zeros(200, 1, 33, 33)
    spot[:, :, 16, 30:32] = 1
    seen = RandomRotation(degrees=30).view(spot, drawn(200))[:, 0]
    centre = torch.arange(33.0) - 16
    height, right = ((seen * centre.view(shape)).sum((1, 2)) / seen.sum((1, 2)) for shape in ((-1, 1), (1, -1)))
    angles = torch.atan2(height, right).rad2deg()
    assert float(angles.abs().max()) < 30.5 and float(angles.min()) < -27 and float(angles.max()) > 27
    assert abs(float(angles.mean())) < 4


@pytest.mark.parametrize("defence", [ResizeAndPad(0.5), ResizeAndPad(1.0, 1.3)], ids=["smaller", "larger"])
def test_resizing_and_padding_is_that_of_torch(defence: ResizeAndPad) -> None:
    x, key = images(40), drawn(40)
    share, down, right = keys.uniform(key, (3,), dtype=torch.float64).T
    high, wide = (round(defence.canvas * side) for side in (12, 10))
    sizes = set()
    for row, seen in enumerate(defence.view(x, key)):
        tall, broad = (
            least + int(share[row] * (onto - least + 1))
            for least, onto in ((round(defence.smallest * 12), high), (round(defence.smallest * 10), wide))
        )
        top, left = int(down[row] * (high - tall + 1)), int(right[row] * (wide - broad + 1))
        small = functional.interpolate(x[row][None], (tall, broad), mode="bilinear")[0]
        padded = functional.pad(small, (left, wide - broad - left, top, high - tall - top))
        torch.testing.assert_close(seen, padded, rtol=0, atol=1e-12)
        sizes.add(tall)
    assert sizes == set(range(round(defence.smallest * 12), high + 1))


def test_cropping_and_resizing_is_that_of_torch() -> None:
    x, key = images(40), drawn(40)
    share, down, right = keys.uniform(key, (3,), dtype=torch.float64).T
    sizes = set()
    for row, seen in enumerate(CropAndResize(0.5).view(x, key)):
        tall, broad = 6 + int(share[row] * 7), 5 + int(share[row] * 6)
        top, left = int(down[row] * (12 - tall + 1)), int(right[row] * (10 - broad + 1))
        crop = x[row][None, :, top : top + tall, left : left + broad]
        torch.testing.assert_close(seen, functional.interpolate(crop, (12, 10), mode="bilinear")[0], rtol=0, atol=1e-12)
        sizes.add(tall)
    assert sizes == set(range(6, 13))


def test_a_canvas_that_the_model_cannot_take_is_the_callers_error() -> None:
    with pytest.raises(BadModel, match="cannot pass straight"):
        Purifier(lambda x: x[..., :-1], ("straight_through",)).wrap(net())(images(1))


def test_jpeg_is_pillows_and_takes_grey_too() -> None:
    for channels in (1, 3):
        x = images(3, channels=channels)
        expected = by_pillow((x * 255).round().to(torch.uint8), 40).to(torch.float64) / 255
        assert torch.equal(JpegCompression(40).view(x, drawn(3)), expected)
    with pytest.raises(BadData, match="channels"):
        JpegCompression().view(images(1, channels=2), drawn(1))


def test_levels_are_those_of_the_bits() -> None:
    for bits in (1, 4, 8):
        x = images(4, size=(40, 40))
        seen = BitDepth(bits).view(x, drawn(4))
        levels = torch.arange(2**bits) / (2**bits - 1)
        assert set(seen.float().unique().tolist()) <= set(levels.tolist()) and len(seen.unique()) == 2**bits
        assert float((seen - x).abs().max()) <= 0.5 / (2**bits - 1) + 1e-12


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(size: int) -> None:
    x = images(2, size=(6, 5))
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
    assert torch.equal(median(x, size), torch.from_numpy(expected))


def energy(z: Tensor, x: Tensor, kept: Tensor, weight: float) -> float:
    down = functional.pad(z.diff(dim=-2), (0, 0, 0, 1))
    right = functional.pad(z.diff(dim=-1), (0, 1))
    variation = (down.square() + right.square()).sqrt().sum()
    return float((kept * (z - x).square()).sum() / 2 + weight * variation)


def test_total_variation_is_minimised() -> None:
    x, weight = images(1, size=(3, 3), channels=1), 0.05
    kept = (images(1, seed=3, size=(3, 3), channels=1) < 0.7).double()
    found = optimize.minimize(
        lambda z: energy(torch.from_numpy(z).view_as(x), x, kept, weight), x.numpy().ravel(), method="Powell"
    ).fun
    assert 0.9 * found < energy(flattened(x, kept, weight, 1000), x, kept, weight) <= found + 1e-6
    assert energy(flattened(x, kept, weight, 50), x, kept, weight) <= found * 1.02
    flat = flattened(x, torch.ones_like(x), 1e3, 3000)
    torch.testing.assert_close(flat, x.mean().expand_as(x), rtol=0, atol=1e-3)
    assert torch.allclose(flattened(x, torch.ones_like(x), 1e-9, 200), x)


def test_dropped_pixels_have_no_say() -> None:
    x, key = images(2), drawn(2)
    defence = TotalVariation(keep=0.5)
    kept = keys.uniform(key, (1, 12, 10)) < 0.5
    other = torch.where(kept, x, 1 - x)
    assert torch.equal(defence.view(x, key), defence.view(other, key)) and 0.3 < float(kept.double().mean()) < 0.7


def test_feature_squeezing_is_both() -> None:
    x, defence = images(6), FeatureSqueezing(bits=3, size=3)
    both = (median(x, 3) * 7).round() / 7
    assert torch.equal(defence.view(x, drawn(6)), both)


def test_a_purifier_is_used_as_it_is_given() -> None:
    module, x = net(), images(4)
    plain = Purifier(torch.sqrt)
    torch.testing.assert_close(plain.wrap(module)(x), module(x.sqrt()).log_softmax(1))
    assert [each.name for each in plain.openings(module)] == ["core", "defended", "straight_through"]

    x.requires_grad_()
    for order in (("true", "straight_through"), ("straight_through", "true")):
        openings = Purifier(torch.sqrt, order).openings(module)[1:]
        found = [torch.autograd.grad(each.classifier(x)[:, 0].sum(), x)[0] for each in openings]
        true = found[order.index("true")]
        torch.testing.assert_close(found[order.index("straight_through")], true * 2 * x.detach().sqrt())

    def noisy(x: Tensor, key: Tensor) -> Tensor:
        return x + keys.uniform(key, x.shape[1:], dtype=x.dtype)

    keyed = Purifier(noisy, keyed_draws=3).wrap(module)
    assert not torch.equal(keyed(x), keyed.at(1)(x)) and torch.equal(keyed(x), keyed.at(0)(x))


def test_an_attack_on_the_opening_breaks_what_the_attack_on_the_core_leaves() -> None:
    """The attack on the core is the start of the one on the defence, which takes more than it."""
    module, x, ids = net(), images(24), torch.arange(24)
    y = module(x).argmax(1)
    rows = Rows(x, y, torch.full_like(y, -1), drawn(24), Linf(0.3))
    attack = APGD(steps=8, loss="margin")
    oblivious = attack(module, x, y, threat=Linf(0.3))
    assert bool(oblivious.fooled.all())
    for defence in (ResizeAndPad(num_draws=4), JpegCompression(75), Median(2)):
        wrapped = defence.wrap(module)
        found = expected_worst(attack, wrapped, rows, starts=[oblivious.x], rounds=1).x
        left = [float((wrapped.at(9)(points, ids).argmax(1) == y).double().mean()) for points in (oblivious.x, found)]
        assert left[1] < 0.1 and left[1] <= left[0] and float((found - x).abs().max()) <= 0.3 + 1e-9


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianNoise(sigma=0),
        lambda: GaussianNoise(num_draws=0),
        lambda: RandomRotation(degrees=181),
        lambda: ResizeAndPad(smallest=1, canvas=0.9),
        lambda: CropAndResize(smallest=float("nan")),
        lambda: JpegCompression(101),
        lambda: BitDepth(9),
        lambda: Median(1),
        lambda: TotalVariation(keep=0),
        lambda: TotalVariation(weight=-1),
        lambda: FeatureSqueezing(size=1),
        lambda: Purifier(torch.sqrt, ()),
        lambda: Purifier(torch.sqrt, ("smooth",)),
        lambda: Purifier(torch.sqrt, keyed_draws=-1),
    ],
)
def test_bad_values_are_refused(make) -> None:
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.hint


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    module = net()
    module.held = images(1).requires_grad_() * 1  # part of a graph
    with pytest.raises(BadModel, match="copied"):
        Median().wrap(module)
