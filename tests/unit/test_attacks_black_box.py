"""The attacks that need no gradients: what they may look at, what they cost, and where the answer is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.decision import noise
from holdfast.ascent.normal import smooth_noise
from holdfast.ascent.state import Rows
from holdfast.attacks.blur import Blur
from holdfast.attacks.boundary import Boundary
from holdfast.attacks.contrast_reduction import ContrastReduction
from holdfast.attacks.gaussian_noise import GaussianNoise
from holdfast.attacks.geo_da import GeoDA
from holdfast.attacks.hop_skip_jump import HopSkipJump
from holdfast.attacks.nes import NES
from holdfast.attacks.salt_and_pepper import SaltAndPepper
from holdfast.attacks.spsa import SPSA
from holdfast.attacks.uniform_noise import UniformNoise
from holdfast.foundation.errors import BadValue
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

LABELS = [Boundary, HopSkipJump, GeoDA]
SCORES = [NES, SPSA]
BASELINES = [GaussianNoise, UniformNoise, ContrastReduction, Blur, SaltAndPepper]


class Half(nn.Module):
    """Two classes split by a plane; class 1 where ``weight . x > bias``. On the plane itself the class is 0."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        side = (x.flatten(1) * self.weight).sum(1) - self.bias
        return torch.stack([-side, side], 1)


class Labels(nn.Module):
    """The labels of another model and nothing else: 1 for the class it predicts, 0 for the others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype)


class Plain(nn.Module):
    """Two layers whose sums are formed in the same order whatever the batch: no matrix product."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.inner, self.outer = (
            nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[1] ** 0.5)
            for shape in ((24, size), (5, 24))
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = ((x.flatten(1) - 0.5)[:, None] * self.inner).sum(2).relu()
        return (hidden[:, None] * self.outer).sum(2)


def plain(shape: tuple[int, int, int] = (3, 6, 4), count: int = 6) -> tuple[Plain, Tensor, Tensor]:
    """That net, noisy images with black and white pixels, and the labels that it gives them."""
    generator = torch.Generator().manual_seed(2)
    x = (0.5 + 0.4 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    net = Plain(x[0].numel())
    return net, x, net(x).argmax(1)


def plane(size: int = 48, count: int = 4, margin: float = 0.2) -> tuple[Half, Tensor, Tensor]:
    """A plane at Euclidean distances around ``margin`` from grey images, which the box does not reach."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, generator=generator, dtype=torch.float64)
    weight = weight / weight.norm()
    x = 0.45 + 0.1 * torch.rand(count, 3, 4, size // 12, generator=generator, dtype=torch.float64)
    side = x.flatten(1) @ weight
    return Half(weight, float(side.max()) + margin), x, torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(
    ("attack", "within"),
    [
        (HopSkipJump(steps=600), 1.15),
        (GeoDA(steps=600, frequencies=1.0), 1.2),
        (Boundary(steps=500), 1.1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_label_only_attacks_come_close_to_the_nearest_point_of_a_plane(attack, within):
    net, x, y = plane()
    exact = net.bias - (x.flatten(1) * net.weight).sum(1)
    found = attack(net, x, y, threat=L2(1e3))
    assert found.fooled.all()
    share = found.distance / exact
    print(f"{type(attack).__name__}: {float(share.median()):.3f} of the distance, at most {float(share.max()):.3f}")
    assert (share >= 1).all() and float(share.median()) <= within


@pytest.mark.parametrize("attack", [HopSkipJump(steps=600), GeoDA(steps=600, frequencies=1.0)], ids=repr)
def test_label_only_attacks_search_linf(attack):
    net, x, y = plane()
    exact = (net.bias - (x.flatten(1) * net.weight).sum(1)) / net.weight.abs().sum()
    found = attack(net, x, y, threat=Linf(1))
    assert found.fooled.all() and (found.distance >= exact).all()
    assert float((found.distance / exact).median()) <= 1.4


@pytest.mark.parametrize("kind", LABELS, ids=lambda kind: kind.__name__)
def test_label_only_attacks_read_nothing_but_labels(kind):
    net, x, y = plain()
    attack = kind(steps=100, starts=4)
    scores, labels = (attack(model, x, y, threat=L2(1e3), seed=2) for model in (net, Labels(net)))
    assert scores.fooled.all() and torch.equal(scores.x, labels.x)


@pytest.mark.parametrize("kind", [*LABELS, *SCORES], ids=lambda kind: kind.__name__)
def test_a_step_is_one_query_and_no_gradient(kind):
    net, x, y = plane()
    threat = L2(0.01)  # out of reach, so that no search ends early
    found = kind(steps=77)(net, x, y, threat=threat)
    assert not found.fooled.any() and (found.backwards == 0).all()
    assert (found.forwards == 1 + 77 + 1).all()  # the clean image, the queries, the last word


@pytest.mark.parametrize("kind", LABELS, ids=lambda kind: kind.__name__)
def test_a_model_with_one_answer_ends_the_search_after_its_starts(kind):
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum((1, 2, 3)) * 0 + 1, x.sum((1, 2, 3)) * 0], 1)

    _, x, y = plane()
    found = kind(steps=500, starts=7)(Same(), x, y, threat=L2(1e3))
    assert not found.fooled.any() and (found.forwards == 1 + 7 + 1).all()


def test_a_start_is_found_where_fine_noise_always_gets_the_true_label():
    """A model of the mean colour of the image's halves: fine noise is grey on average, wide squares are not."""

    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            difference = (x[..., : x.shape[3] // 2].mean((1, 2, 3)) - x[..., x.shape[3] // 2 :].mean((1, 2, 3))).abs()
            return torch.stack([0.1 - difference, difference - 0.1], 1)

    x = torch.full((4, 1, 32, 32), 0.5)
    y = torch.zeros(4, dtype=torch.int64)
    rows = Rows(x, y, y - 1, keys.fold(keys.root(0), torch.arange(4)), L2(1e3))
    assert (Halves()(noise(rows, y)).argmax(1) == 0).all()
    assert HopSkipJump(steps=60)(Halves(), x, y, threat=L2(1e3)).fooled.all()


def test_only_points_within_eps_count():
    net, x, y = plane()
    exact = net.bias - (x.flatten(1) * net.weight).sum(1)
    near = HopSkipJump(steps=500)(net, x, y, threat=L2(float(exact.median()) * 1.1))
    assert not near.fooled[exact > exact.median() * 1.1].any() and near.fooled[exact < exact.median() * 0.9].all()


@pytest.mark.parametrize("kind", SCORES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.05), 1), (L2(0.25), 2)], ids=["linf", "l2"])
def test_score_attacks_climb_towards_the_best_point(kind, threat, dual):
    net, x, y = plane(margin=3.0)
    found = kind(steps=800)(net, x, y, threat=threat)
    risen = ((found.x - x).flatten(1) * net.weight).sum(1) / (threat.eps * net.weight.norm(p=dual))
    assert not found.fooled.any() and float(risen.min()) >= 0.85
    assert float(risen.max()) <= 1 + 1e-6


def test_nes_finds_the_few_values_that_count_in_l1():
    net, x, y = plane(margin=3.0)
    found = NES(steps=800)(net, x, y, threat=L1(0.25))
    risen = ((found.x - x).flatten(1) * net.weight).sum(1) / (0.25 * net.weight.abs().max())
    assert float(risen.min()) >= 0.75


def test_an_estimate_holds_at_the_rim_of_the_box():
    """Black and white pixels: what the box cuts off a query is cut off its weight, and the signs stay right."""
    weight = torch.linspace(-1, 1, 48, dtype=torch.float64)
    weight = weight + 0.5 * weight.sign()
    x = (weight > 0).to(torch.float64).view(1, 3, 4, 4)  # the best way leads out of the box at every pixel
    net, y = Half(weight, 30.0), torch.zeros(1, dtype=torch.int64)
    for kind in SCORES:
        found = kind(steps=300)(net, x, y, threat=Linf(0.1))
        assert float((found.x - x).abs().max()) == 0  # the clean image is the best point of the set
        far = kind(steps=300)(net, 1 - x, y, threat=Linf(0.1))
        risen = ((far.x - (1 - x)).flatten() * weight).sum() / (0.1 * weight.abs().sum())
        assert float(risen) >= 0.9


def test_the_pairs_of_a_search_are_antithetic():
    net, x, y = plane()
    asked: list[Tensor] = []

    def spy(images: Tensor) -> Tensor:
        asked.append(images)
        return net(images)

    threat = L2(0.01)
    attack = NES(steps=9, samples=4)
    state = attack.begin(spy, Rows(x, y, y - 1, keys.fold(keys.root(0), torch.arange(len(x))), threat))
    with torch.no_grad():
        while not bool(state.done.all()):
            state = attack.step(spy, state)
    torch.testing.assert_close(asked[0], x)
    for first in (1, 3):
        torch.testing.assert_close(asked[first] + asked[first + 1], 2 * x)
    assert not torch.allclose(asked[1], asked[3])
    assert not torch.equal(asked[5], x)  # moved, and asked for before the next pairs
    torch.testing.assert_close(asked[6] + asked[7], 2 * asked[5])


DEEP = [
    NES(steps=11, samples=2),
    SPSA(steps=11, samples=2),
    Boundary(steps=50, starts=2),
    HopSkipJump(steps=80, starts=2, samples=4),
    HopSkipJump(steps=80, starts=2, samples=4, frequencies=0.5),
    GeoDA(steps=80, starts=2, samples=4),
]


@pytest.mark.parametrize("attack", DEEP, ids=repr)
def test_later_phases_do_not_depend_on_the_batch_and_stay_inside(attack):
    for threat in (L2(0.3), Linf(0.06)):
        if threat.name in attack.threats:
            for shape in ((3, 6, 4), (1, 1, 7)):
                net, x, y = plain(shape)
                results = [attack(net, x, y, threat=threat, slots=slots) for slots in (None, 3)]
                for other in results[1:]:
                    for field in dataclasses.fields(other):
                        assert torch.equal(getattr(other, field.name), getattr(results[0], field.name)), field.name
                found = results[0]
                assert torch.equal(found.fooled, net(found.x).argmax(1) != y)
                assert (found.distance <= threat.eps + 1e-9).all() and (found.forwards <= 2 + attack.steps).all()
                assert found.x.min() >= 0 and found.x.max() <= 1


@pytest.mark.parametrize("threat", [L2(1e3), Linf(1.0)], ids=["l2", "linf"])
@pytest.mark.parametrize("kind", BASELINES[:1] + BASELINES[2:4], ids=lambda kind: kind.__name__)
def test_baselines_take_a_radius_that_bounds_nothing(kind, threat):
    net, x, y = plain()
    found = kind(steps=20)(net, x, y, threat=threat)
    assert torch.equal(found.fooled, net(found.x).argmax(1) != y)
    assert torch.isfinite(found.x).all() and found.x.min() >= 0 and found.x.max() <= 1


def test_contrast_reduction_ends_at_the_first_strength_that_fools():
    """Class 1 where the image's spread is below 0.1: the exact share to lose is known."""

    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            spread = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
            return torch.stack([spread - 0.1, 0.1 - spread], 1)

    x = torch.tensor([0.3, 0.7]).view(1, 1, 1, 2)
    found = ContrastReduction(steps=100)(Spread(), x, torch.zeros(1, dtype=torch.int64), threat=Linf(1))
    assert found.fooled.all() and 0.15 <= float(found.distance) <= 0.153
    assert float(found.forwards) == 1 + 76 + 1


def test_blur_keeps_flat_images_and_grows():
    flat = torch.full((2, 3, 9, 7), 0.3, dtype=torch.float64)
    rows = Rows(flat, torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64), L2(1e3))
    share = torch.tensor([0.1, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Blur().point(rows, share, rows.key), flat)
    busy = dataclasses.replace(rows, x0=plain((3, 9, 7))[1][:2])
    weak, strong = (Blur().point(busy, torch.full((2,), s, dtype=torch.float64), rows.key) for s in (0.05, 1.0))
    assert (strong.flatten(1).var(1) < weak.flatten(1).var(1)).all()
    # Narrow blurs are the clean image: the kernel falls on one pixel.
    torch.testing.assert_close(Blur().point(busy, share * 1e-3, rows.key), busy.x0)


def test_salt_and_pepper_changes_as_many_pixels_as_it_may():
    x = torch.full((6, 3, 5, 5), 0.5)
    key = keys.fold(keys.root(0), torch.arange(6))
    rows = Rows(x, torch.zeros(6), torch.zeros(6), key, L0(7))
    for share, count in ((0.1, 1), (0.5, 4), (1.0, 7)):
        point = SaltAndPepper().point(rows, torch.full((6,), share), key)
        assert (L0(7).distance(x, point) == count).all()
        assert set(point[point != 0.5].tolist()) == {0.0, 1.0}
        assert (point.amax(1) == point.amin(1)).all()  # all channels of a pixel together


def test_gaussian_noise_reaches_the_rim():
    x = torch.full((6, 3, 8, 8), 0.5)
    key = keys.fold(keys.root(0), torch.arange(6))
    for threat in (L2(0.8), L1(5.0)):
        rows = Rows(x, torch.zeros(6), torch.zeros(6), key, threat)
        for share in (0.25, 1.0):
            point = GaussianNoise().point(rows, torch.full((6,), share), key)
            torch.testing.assert_close(
                threat.distance(x, point), torch.full((6,), share * threat.eps), rtol=1e-4, atol=0
            )


def test_smooth_noise_holds_the_low_frequencies_only():
    like = torch.zeros(3, 2, 8, 6, dtype=torch.float64)
    key = keys.fold(keys.root(0), torch.arange(3))
    constant = smooth_noise(key, like, 0.01)
    torch.testing.assert_close(constant, constant[..., :1, :1].expand_as(like))
    half = smooth_noise(key, like, 0.5)
    place = torch.arange(8, dtype=torch.float64) + 0.5
    for number in range(4, 8):
        wave = torch.cos(torch.pi * number / 8 * place)
        assert float((half * wave[:, None]).sum(2).abs().max()) <= 1e-12


@pytest.mark.parametrize(
    "make",
    [
        lambda: NES(samples=3),
        lambda: NES(sigma=0),
        lambda: NES(decay=-1),
        lambda: SPSA(samples=0),
        lambda: SPSA(step_size="fast"),
        lambda: HopSkipJump(starts=0),
        lambda: HopSkipJump(frequencies=0.0),
        lambda: GeoDA(frequencies=1.5),
        lambda: Boundary(steps=0),
        lambda: Blur(widest=0),
    ],
)
def test_options_that_make_no_sense_are_refused(make):
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.hint
