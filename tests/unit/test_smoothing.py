"""Randomised smoothing: certificates of a linear model, whose smoothed radius is known, and of published counts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import beta
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.expected import expected_worst
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.defences.certificate import (
    ABSTAINS,
    Certificates,
    certified_accuracy,
    certify,
    certify_at,
    predict,
    radius_of,
)
from holdfast.defences.evidence import evidence
from holdfast.defences.smoothing import Smoothing
from holdfast.foundation.errors import BadData, BadValue
from holdfast.threats.l2 import L2

SIGMA = 0.25


class Linear(nn.Module):
    """Class 1 where the mean of the image, times the root of its size, exceeds ``level``: at that L2 distance from 0."""

    def __init__(self, level: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        far = 40 * (x.flatten(1).mean(1) * math.sqrt(x.shape[1:].numel()) - self.level)
        return self.dropout(torch.stack([-far, far], 1))


def at_distance(*distances: float) -> Tensor:
    """Images so far on the side of class 1 of ``Linear()``."""
    return torch.tensor(distances).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) / 4


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
        module[3].weight.data.mul_(10)
        return module


def ids(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count)


@pytest.mark.parametrize(("draws", "cap"), [(10**2, 1.50), (10**3, 2.46), (10**4, 3.20), (10**5, 3.81)])
def test_the_largest_radius_that_so_many_draws_can_certify(draws: int, cap: float) -> None:
    found = radius_of(draws, draws, sigma=2, alpha=0.001)
    assert found == pytest.approx(2 * cap, abs=0.011)
    assert found == pytest.approx(2 * NormalDist().inv_cdf(0.001 ** (1 / draws)))  # all alike: p**draws = alpha


@pytest.mark.parametrize(
    ("sigma", "alpha", "published"),
    [
        (0.12, 0.001, (0.457, 0.449, 0.443, 0.438, 0.434)),
        (0.25, 0.01, (0.978, 0.955, 0.941, 0.929, 0.920)),
        (0.5, 0.01, (1.96, 1.91, 1.88)),
    ],
)
def test_the_largest_radii_that_cohen_et_al_released(sigma: float, alpha: float, published: tuple[float, ...]) -> None:
    """The tops of their files for CIFAR-10 are those of 100,000 votes of 100,000, and of one, two, ... fewer."""
    found = [radius_of(100_000 - missed, 100_000, sigma=sigma, alpha=alpha) for missed in range(len(published))]
    assert [float(f"{radius:.3g}") for radius in found] == list(published)


def test_no_majority_no_radius() -> None:
    assert math.isnan(radius_of(50, 100, sigma=1, alpha=0.001)) and math.isnan(radius_of(60, 100, sigma=1, alpha=0.001))
    assert 0 <= radius_of(66, 100, sigma=1, alpha=0.001) < 0.05


def test_the_certificate_of_a_linear_model_is_just_below_its_distance() -> None:
    distances = torch.tensor([0.02, 0.1, 0.2, 0.3, 0.4, -0.3], dtype=torch.float64)
    found = certify(Linear(), at_distance(*distances.tolist()), ids(6), sigma=SIGMA, estimate=4000)
    assert found.label.tolist() == [1, 1, 1, 1, 1, 0] or found.label.tolist() == [ABSTAINS, 1, 1, 1, 1, 0]
    short = distances.abs() - found.radius
    assert bool((short[1:] > 0).all()) and bool((short < 0.05).all())
    share = torch.special.ndtr(distances.abs() / SIGMA)
    assert bool((found.votes / 4000 - share).abs().max() < 0.03) and found.draws.tolist() == [4100] * 6


def test_certificates_hold_as_often_as_they_say() -> None:
    """At alpha 0.1 at most a tenth, and about that share, of 300 images of the same distance are certified too far."""
    found = certify(Linear(), at_distance(*[0.2] * 300), ids(300), sigma=SIGMA, select=1, estimate=200, alpha=0.1)
    wrong = int(((found.radius > 0.2) & (found.label == 1)).sum())
    assert 10 <= wrong <= 30 + 3 * 5.2


def test_parts_and_batches_change_no_certificate() -> None:
    x = at_distance(*np.linspace(-0.4, 0.5, 9).tolist())
    options = {"sigma": SIGMA, "select": 20, "estimate": 700}
    for run in (certify, lambda *given, **more: certify_at(*given, radii=(0, 0.1, 0.2), **more)):
        whole, late = run(Linear(), x, ids(9), **options), run(Linear(), x[5:], ids(4, 5), **options)
        for name in ("label", "radius", "votes", "draws"):
            assert torch.equal(getattr(whole, name)[5:], getattr(late, name))
        assert not torch.equal(run(Linear(), x, ids(9), seed=1, **options).votes, whole.votes)
        empty = run(Linear(), x[:0], ids(0), **options)
        assert empty.label.shape == empty.radius.shape == (0,)


def test_the_model_is_left_as_it_was_and_asked_in_evaluation_mode() -> None:
    module, before = Linear().train(), torch.get_rng_state()
    found = certify(module, at_distance(0.5), ids(1), sigma=SIGMA, estimate=200)
    assert module.training and module.level.requires_grad and torch.equal(torch.get_rng_state(), before)
    assert found.votes.item() > 180, "dropout was off"


@pytest.mark.parametrize("p", [0.5, 0.8, 0.99])
def test_the_evidence_is_the_mean_ratio_of_likelihoods_above(p: float) -> None:
    for successes, n in ((0, 0), (3, 3), (5, 9), (40, 41)):

        def ratio(q: float, a: int = successes, b: int = n - successes) -> float:
            return (q / p) ** a * ((1 - q) / (1 - p)) ** b / math.pi / math.sqrt(q * (1 - q))

        mean = integrate.quad(ratio, p, 1, limit=200)[0] / beta.sf(p, 0.5, 0.5)
        assert evidence(np.array(successes), n, p) == pytest.approx(math.log(mean), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_evidence_may_be_looked_at_all_the_time(p: float) -> None:
    """Of 1,000 sequences of 1,000 draws for which the claim just holds, at most alpha are ever rejected."""
    hits = (np.random.default_rng(0).random((1000, 1000)) < p).cumsum(1)
    looks = [*range(1, 50), *range(50, 1001, 25)]
    ever = np.max([evidence(hits[:, n - 1], n, p) for n in looks], axis=0) >= math.log(1 / 0.05)
    assert 0.005 < ever.mean() <= 0.05
    high = (np.random.default_rng(1).random((200, 1000)) < p + 0.09).sum(1)
    assert (evidence(high, 1000, p) >= math.log(1 / 0.05)).mean() > 0.95


def test_stopping_early_decides_the_same_with_fewer_draws() -> None:
    distances = [-0.4, 0.01, 0.1, 0.2, 0.45, 0.6]
    x, radii = at_distance(*distances), (0.0, 0.25, 0.3)
    options = {"sigma": SIGMA, "select": 50, "estimate": 20_000, "alpha": 0.001}
    found = certify_at(Linear(), x, ids(6), radii=radii, **options)
    assert found.radius.tolist() == [0.3, 0, 0, 0, 0.3, 0.3] and found.label[2:].tolist() == [1] * 4
    assert found.label[0] == 0 and found.label[1] == ABSTAINS
    assert float(found.draws.double().mean()) < 20_050 / 4 and int(found.draws[[0, 4, 5]].max()) < 2000
    fixed = certify(Linear(), x, ids(6), **options)
    assert all(low <= high for low, high in zip(found.radius.tolist(), fixed.radius.tolist()))


def test_stopping_early_is_wrong_as_rarely_as_it_says() -> None:
    """300 images whose distance is the second radius: at alpha 0.1 a tenth at most are certified there or further."""
    x = at_distance(*[0.1] * 300)
    found = certify_at(Linear(), x, ids(300), radii=(0, 0.1, 0.2), sigma=SIGMA, select=1, estimate=1000, alpha=0.1)
    assert int(((found.radius >= 0.1) & (found.label == 1)).sum()) <= 30


def test_predictions_are_those_of_the_vote_or_none() -> None:
    x = at_distance(-0.3, 0.005, 0.3)
    assert predict(Linear(), x, ids(3), sigma=SIGMA, draws=200).tolist() == [0, ABSTAINS, 1]
    wrong = predict(Linear(), at_distance(*[0.03] * 300), ids(300), sigma=SIGMA, draws=20, alpha=0.2).eq(0)
    assert int(wrong.sum()) <= 60


def test_certified_is_never_above_what_an_attack_leaves() -> None:
    """The same images, a model that is not linear: what is certified at a radius survives an attack of that radius."""
    module, radius = net(), 0.15
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = predict(module, x, ids(40), sigma=SIGMA, draws=300, alpha=0.4).clamp_min(0)
    certificates = certify_at(module, x, ids(40), radii=(0, radius), sigma=SIGMA, estimate=3000)
    _, defended, probabilities = Smoothing(SIGMA, num_draws=60).openings(module)
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(0), ids(40)), L2(radius))
    for opening in (defended, probabilities):
        found = expected_worst(
            APGD(steps=15, loss="margin"), opening.classifier, rows, judge=defended.classifier, rounds=1
        ).x
        survives = predict(module, found, ids(40, 100), sigma=SIGMA, draws=400, alpha=0.45) == y
        certified = (certificates.label == y) & (certificates.radius >= radius)
        assert bool((survives | ~certified).all()) and 5 < int(certified.sum()) < int(survives.sum()) < 36
        low = certified_accuracy(certificates, y, [radius])[0].value
        assert low <= float(survives.double().mean())


def test_certified_accuracy_counts_right_labels_of_at_least_the_radius() -> None:
    found = Certificates(
        torch.tensor([1, 1, 0, ABSTAINS]), torch.tensor([0.5, 0.2, 0.9, 0.0]).double(), *ids(8).view(2, 4)
    )
    curve = certified_accuracy(found, torch.tensor([1, 1, 1, 1]), (0, 0.2, 0.5, 0.6))
    assert [each.value for each in curve] == [0.5, 0.5, 0.25, 0.0] and curve[0].n == 4 and curve[0].low < 0.5


def test_votes_decide_and_probabilities_give_the_gradient() -> None:
    module, x = Linear(), at_distance(0.1, 0.3).clone().requires_grad_()
    wrapped = Smoothing(SIGMA, num_draws=50).wrap(module)
    out = wrapped.at(1)(x, ids(2)).exp()
    shares = out.detach()
    assert torch.allclose(shares.sum(1), torch.ones(2)) and torch.allclose(
        shares * 52, (shares * 52).round(), atol=1e-4
    )
    assert float(shares[1, 1]) > float(shares[0, 1]) > 0.5
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), x)
    assert bool((gradient > 0).all())


@pytest.mark.parametrize(
    "given",
    [{"sigma": 0}, {"alpha": 0.6}, {"estimate": 0}, {"select": 0}, {"radii": ()}, {"radii": (0.2, 0.1)},
     {"radii": (-0.1,)}, {"radii": (3.0,)}],
)  # fmt: skip
def test_bad_values_are_refused(given: dict) -> None:
    with pytest.raises(BadValue) as caught:
        certify_at(Linear(), at_distance(0.1), ids(1), **{"sigma": SIGMA, "radii": (0,), **given})
    assert caught.value.hint


def test_each_image_needs_an_id() -> None:
    with pytest.raises(BadData, match="ids"):
        certify(Linear(), at_distance(0.1, 0.2), ids(1), sigma=SIGMA)
