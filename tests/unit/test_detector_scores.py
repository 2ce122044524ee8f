"""Every detector against its closed form or a reference, and the attack that knows of it on a problem solved by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter
from scipy.stats import chi2, kstest
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors as Reference
from torch import Tensor, nn

from holdfast.ascent.copied import copied
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.attacks.square import Square
from holdfast.defences.average import Average
from holdfast.defences.mixup_inference import MixupInference
from holdfast.detectors.detector import Fixed, Judged
from holdfast.detectors.energy import Energy
from holdfast.detectors.evasion import WAYS, Unnoticed, evade
from holdfast.detectors.extra_class import ExtraClass
from holdfast.detectors.feature_squeezing import FeatureSqueezing
from holdfast.detectors.guard import Guard
from holdfast.detectors.mahalanobis import Mahalanobis
from holdfast.detectors.max_softmax import MaxSoftmax
from holdfast.detectors.mixup_gap import MixupGap
from holdfast.detectors.nearest_neighbours import NearestNeighbours
from holdfast.foundation.calibration import Threshold
from holdfast.foundation.errors import BadData, BadModel, BadValue, UnknownName
from holdfast.foundation.stats import Interval
from holdfast.imaging.pool import Pool
from holdfast.imaging.squeezing import coarse, median
from holdfast.losses import margin
from holdfast.objectives.extra_class import undetected
from holdfast.threats.linf import Linf


def at(value: float) -> Threshold:
    return Threshold(value, 0.05, Interval(0.05, 100, 0.0, 0.1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(features: int = 6, classes: int = 3) -> nn.Module:
    """Logits that are linear in the pixels of (N, 1, 1, features) images, which are the features as well."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(features, classes)).double()
        net[2].weight.data.mul_(5)
    return net


def test_scores_of_logits() -> None:
    x, y = noise(30, 1, 1, 6), torch.arange(30) % 2
    z = plain()(x).detach()
    energy = Energy(temperature=2.0).fit(plain(), x, y)(x)
    assert torch.equal(energy.logits, z) and torch.allclose(energy.score, -2 * (z / 2).exp().sum(1).log())
    p = z.softmax(1).amax(1)
    assert torch.allclose(MaxSoftmax().fit(plain(), x, y)(x).score, ((1 - p) / p).log())
    extra = ExtraClass().fit(plain(), x, y)(x)
    assert torch.equal(extra.logits, z[:, :2]) and torch.equal(extra.score, z[:, 2] - z[:, :2].amax(1))


def test_confident_images_neither_tie_nor_lose_their_gradient() -> None:
    net = plain().float()
    net[2].weight.data.mul_(100)
    x = noise(20, 1, 1, 6).float()
    assert float(net(x).softmax(1).amax(1).detach().median()) == 1
    x.requires_grad_()
    score = MaxSoftmax().fit(net, x.detach(), torch.zeros(20, dtype=torch.int64))(x).score
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert score.unique().numel() == 20 and bool((gradient.flatten(1).norm(dim=1) > 1).all())


def test_the_mahalanobis_distance_of_normal_features_is_chi_squared() -> None:
    shape = torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 3, 0], [0, 0, 1, 0.5]], dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    means = torch.tensor([[0.0] * 4, [500.0] * 4], dtype=torch.float64)
    y = torch.arange(6000) % 2
    x = (torch.randn(6000, 4, generator=draw, dtype=torch.float64) @ shape.T + means[y])[:, None, None]
    score = Mahalanobis().fit(plain(4), x, y)(x).score
    assert kstest(score.detach(), chi2(4).cdf).pvalue > 0.01
    one = Mahalanobis(layer="1").fit(plain(4), x[::2], y[::2])
    flat = x.flatten(1).numpy()
    reference = EmpiricalCovariance().fit(flat[::2])
    assert np.allclose(one(x).score.detach(), reference.mahalanobis(flat))


def test_directions_without_variance_are_left_out() -> None:
    x = noise(200, 1, 1, 6)
    x[..., 3] = 0.5
    x[..., 5] = x[..., 0] + x[..., 1]
    found = Mahalanobis().fit(plain(), x, torch.zeros(200, dtype=torch.int64))
    reference = EmpiricalCovariance().fit(x.flatten(1).numpy())
    assert np.allclose(found(x).score.detach(), reference.mahalanobis(x.flatten(1).numpy()), atol=1e-6)


@pytest.mark.parametrize("k", [1, 7])
def test_neighbours_are_those_of_scikit_learn(k: int) -> None:
    bank, x = noise(80, 1, 1, 6), noise(20, 1, 1, 6, seed=1)
    found = NearestNeighbours(k).fit(plain(), bank, torch.zeros(80, dtype=torch.int64))(x).score
    reference = Reference(n_neighbors=k).fit(F.normalize(bank.flatten(1)))
    assert np.allclose(found.detach(), reference.kneighbors(F.normalize(x.flatten(1)))[0][:, -1])
    assert float(NearestNeighbours(1).fit(plain(), bank, torch.zeros(80, dtype=torch.int64))(bank).score.max()) == 0


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(size: int) -> None:
    x = noise(2, 3, 7, 9)
    assert np.array_equal(median(x, size), median_filter(x.numpy(), size=(1, 1, size, size)))


def test_feature_squeezing_by_its_parts() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 4)).double()
    x, y = noise(10, 3, 6, 6), torch.arange(10) % 4
    assert torch.allclose(coarse(torch.tensor([0.0, 0.49, 0.51, 1.0]), 1), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    p, rough, smooth = (net(each).softmax(1) for each in (x, coarse(x, 3), median(x, 2)))
    found = FeatureSqueezing(bits=3).fit(net, x, y)(x)
    assert torch.allclose(found.score, torch.maximum((p - rough).abs().sum(1), (p - smooth).abs().sum(1)))
    assert torch.allclose(found.logits, net(x)) and float(found.score.min()) >= 0 and float(found.score.max()) <= 2


@pytest.mark.parametrize("follow", ["largest", "predicted"])
def test_the_gap_is_that_of_mixup_inference(follow: str) -> None:
    pool, y = noise(12, 1, 1, 6), torch.arange(12) % 3
    x = noise(8, 1, 1, 6, seed=3)
    found = MixupGap(lam=0.6, num_draws=4, follow=follow).fit(plain(), pool, y)(x)  # all images of a class, once each
    defence = MixupInference(Pool.of(pool, y, source="noise"), pl=Average(0.6, 4), control_variate=False)
    wrapped = defence.wrap(plain())
    if follow == "largest":
        assert torch.allclose(found.score, wrapped.answer(x).gap)
    predicted = plain()(x).argmax(1)
    mean = torch.stack([plain()(0.6 * x + 0.4 * pool[y == k][i]).softmax(1) for k in range(3) for i in range(4)])
    mean = mean.view(3, 4, 8, 3).mean(1)[predicted, torch.arange(8)]
    kept = mean.amax(1) if follow == "largest" else mean[torch.arange(8), predicted]
    assert torch.allclose(found.score, plain()(x).softmax(1).amax(1) - kept)


def test_layers_by_name_and_those_that_give_no_features() -> None:
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).double()
    x, y = noise(40, 1, 6, 6), torch.arange(40) % 3
    by_map, by_input = (Mahalanobis(layer=each).fit(net, x, y)(x).score for each in ("1", None))
    assert torch.allclose(by_map, by_input)
    with pytest.raises(UnknownName, match="layer"):
        Mahalanobis(layer="9").fit(net, x, y)
    with pytest.raises(BadModel, match="linear"):
        Mahalanobis().fit(net[:4], x, y)
    shared = nn.Linear(36, 36).double()
    with pytest.raises(BadModel, match="2 outputs"):
        Mahalanobis(layer="1").fit(nn.Sequential(nn.Flatten(), shared, shared), x, y)


@dataclass(frozen=True)
class Given:
    """A detector on (N, 1, 1, K + 1) images: the first pixels are the logits, the last one is the score."""

    def __call__(self, x: Tensor) -> Judged:
        return Judged(x[:, 0, 0, :-1], x[:, 0, 0, -1])


def test_unnoticed_is_fooled_exactly_where_the_guard_fails() -> None:
    x, y = 4 * noise(500, 1, 1, 5) - 2, torch.arange(500) % 4
    guard = Guard(Fixed(Given()), at(0.3), scale=0.7)
    out, none = guard.evaluate(x), torch.full_like(y, -1)
    m, alarm = margin(x[:, 0, 0, :-1], y, none), (x[:, 0, 0, -1] - 0.3) / 0.7
    assert torch.equal(out.rejected[:, 0], alarm >= 0) and torch.equal(out.safe(y)[:, 0], (m < 0) | (alarm >= 0))
    assert torch.equal(out.served(y)[:, 0], (m < 0) & (alarm < 0))
    for way in WAYS:
        credited = Unnoticed(guard, y, way)(x)
        assert torch.equal(credited.argmax(1) == y, out.safe(y)[:, 0])
        assert torch.equal(margin(credited, y, none) > 0, ~out.safe(y)[:, 0])
        assert torch.equal(Unnoticed(guard, torch.tensor(2), way)(x)[y == 2], credited[y == 2])
    assert torch.allclose(margin(Unnoticed(guard, y)(x), y, none), torch.minimum(m, m.clamp_max(0) - alarm))
    wrong = m > 0
    assert torch.allclose(margin(Unnoticed(guard, y, "selective")(x), y, none), torch.where(wrong, -alarm, m))


def test_on_an_extra_class_the_joint_margin_is_carlini_and_wagners() -> None:
    x, y = noise(60, 1, 1, 6), torch.arange(60) % 2
    guard = Guard(ExtraClass().fit(plain(), x, y), at(0.0))
    none = torch.full_like(y, -1)
    assert torch.allclose(margin(Unnoticed(guard, y)(x), y, none), undetected(plain()(x), y, none))


class Ridge(nn.Module):
    """Class 1 wins where the pixel passes 1/2, and the pixel is the score as well."""

    def forward(self, x: Tensor) -> Judged:
        pixel = x[:, 0, 0, 0]
        return Judged(torch.stack([torch.zeros_like(pixel), pixel - 0.5], 1), pixel)


@pytest.mark.parametrize("attack", [APGD(steps=20, loss="margin"), PGD(steps=20, loss="ce", step_size=0.05)])
def test_the_adaptive_attack_stops_where_the_oblivious_one_is_detected(attack) -> None:
    guard = Guard(Fixed(Ridge()), at(0.7))
    x, y, threat = torch.tensor([0.3, 0.4, 0.0]).view(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), Linf(0.45)
    oblivious = (x + 0.45).clamp(0, 1)
    assert guard.evaluate(oblivious).safe(y)[:, 0].tolist() == [True, True, True]
    found = evade(attack, guard, x, y, threat=threat, starts=[oblivious], rounds=2, every=1)
    assert guard.evaluate(found.x).safe(y)[:, 0].tolist() == [False, False, True]
    assert bool((found.value <= 0.1 + 1e-6).all()) and torch.equal(found.value > 0, torch.tensor([True, True, False]))
    assert found.backwards == 2 * 2 * 20  # both ways, two rounds
    if attack.loss == "margin":
        assert torch.allclose(found.value, torch.tensor([0.1, 0.1, -0.05]), atol=0.02)


@pytest.mark.parametrize("attack", [APGD(steps=20), Square(steps=100)])
def test_any_attack_runs_through_the_engine_on_images_of_one_label(attack) -> None:
    guard = Guard(Fixed(Ridge()), at(0.8))
    x, y, threat = torch.tensor([0.3, 0.25, 0.0]).view(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), Linf(0.45)
    found = attack(Unnoticed(guard, torch.tensor(0)), x, y, threat=threat)
    assert found.fooled.tolist() == [True, True, False]
    assert torch.equal(found.fooled, ~guard.evaluate(found.x).safe(y)[:, 0])


def test_a_guard_rejects_as_many_of_its_calibration_images_as_it_says() -> None:
    x = torch.cat([noise(99, 1, 1, 3).float(), torch.full((1, 1, 1, 3), 0.1)])  # in float32 thresholds fall onto scores
    guard = Guard.calibrated(Fixed(Given()), x, false_alarms=0.1)
    assert int(guard.evaluate(x, num=2).rejected.sum()) == 2 * round(100 * guard.threshold.rate.value) == 2 * 9
    gap = (x[:, 0, 0, 0] - x[:, 0, 0, 1]).abs()
    assert guard.scale == pytest.approx(float(x[:, 0, 0, 2].std() / gap.std()), rel=1e-5)
    assert Guard.calibrated(Fixed(Given()), torch.ones(50, 1, 1, 3)).scale == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Energy(temperature=0),
        lambda: FeatureSqueezing(bits=9),
        lambda: FeatureSqueezing(size=1),
        lambda: NearestNeighbours(k=0),
        lambda: MixupGap(lam=1.0),
        lambda: MixupGap(num_draws=0),
        lambda: MixupGap(follow="both"),
        lambda: Unnoticed(Guard(Fixed(Given()), at(0.0)), torch.tensor(0), "both")(torch.zeros(1, 1, 1, 4)),
    ],
)
def test_what_makes_no_sense_is_refused(make) -> None:
    with pytest.raises((BadValue, UnknownName)):
        make()


def test_models_and_images_that_do_not_fit_are_refused() -> None:
    x, y = noise(6, 1, 1, 6), torch.arange(6) % 3
    for bad in ((x, y[:5]), (x[:0], y[:0]), (x, y.double()), (x.to(torch.uint8), y)):
        with pytest.raises(BadData):
            Energy().fit(plain(), *bad)
    with pytest.raises(BadData, match="neighbour"):
        NearestNeighbours(7).fit(plain(), x, y)
    with pytest.raises(BadModel, match="extra class"):
        ExtraClass().fit(plain(), x, y)
    with pytest.raises(BadModel, match="classes"):
        MixupGap().fit(plain(), x, y % 2)
    with pytest.raises(BadModel, match="label"):
        Energy().fit(plain(), x, y + 1)

    class Uncopied(nn.Module):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("no")

    with pytest.raises(BadModel, match="copied"):
        copied(Uncopied())
