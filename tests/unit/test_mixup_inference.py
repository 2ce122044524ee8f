"""Mixup inference on a model whose probabilities are linear in the image, where all is known by hand; and its draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.ascent.expected import expected_worst
from holdfast.ascent.mixtures import mixtures
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.defences.average import Average
from holdfast.defences.mixup_inference import MixedUp, MixupInference
from holdfast.foundation.calibration import threshold
from holdfast.foundation.errors import BadData, BadValue, HoldfastError
from holdfast.imaging import partners
from holdfast.imaging.pool import Pool
from holdfast.nets.small_cnn import SmallCNN
from holdfast.threats.linf import Linf


class Linear(nn.Module):
    """Two classes: the mean of the image is the probability of class 0."""

    def forward(self, x: Tensor) -> Tensor:
        share = x.flatten(1).mean(1)
        return torch.stack([share, 1 - share], 1).clamp_min(1e-30).log()


def flat(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def ends(each: int = 3) -> Pool:
    """Black and white: the model is certain of both."""
    return Pool.of(flat(*[1.0] * each, *[0.0] * each), [0] * each + [1] * each, source="ends:train")


def images(count: int, seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(72, classes)
        ).double().eval()  # fmt: skip


def sharp(classes: int = 4) -> nn.Module:
    module = net(classes)
    with torch.no_grad():
        module[4].weight.mul_(20)
    return module


def random_pool(classes: int = 4, each: int = 6) -> Pool:
    return Pool.of(images(classes * each, 7), torch.arange(classes * each) % classes, source="noise:train")


def test_by_hand_on_the_linear_model() -> None:
    x = flat(0.9, 0.7, 0.4)
    for lam in (0.25, 0.5, 0.9):
        pl = MixupInference(ends(), pl=Average(lam, 5), ol=None).wrap(Linear())
        ol = MixupInference(ends(), ol=Average(lam, 5)).wrap(Linear())
        for found, one, two in ((pl, 1 - lam, 0.0), (ol, 0.0, 1 - lam)):
            sure = torch.tensor([[lam * 0.9 + one, lam * 0.1 + two], [lam * 0.7 + one, lam * 0.3 + two],
                                 [lam * 0.4 + two, lam * 0.6 + one]])  # fmt: skip
            assert torch.allclose(found(x).exp(), sure.double(), atol=1e-6)
            gap = torch.tensor([0.9, 0.7, 0.6]) - sure.amax(1)
            assert torch.allclose(found.answer(x).gap, gap.double(), atol=1e-6)


@pytest.mark.parametrize("on_clean", ["pl", "base"])
def test_combined_answers_by_the_branch_that_the_gap_asks_for(on_clean: str) -> None:
    # On the linear model the gap is -(1 - lam)(1 - p): -0.05 and -0.2 here.
    defence = MixupInference(ends(), Average(0.5, 5), Average(0.4, 15), tau=-0.1, on_clean=on_clean)
    wrapped, x = defence.wrap(Linear()), flat(0.9, 0.6, 0.1)
    found = wrapped.answer(x)
    assert found.flagged.tolist() == [True, False, True] and found.forwards.tolist() == [21, 6, 21]
    assert defence.forwards() == 21 and defence.forwards(0.1) == 7.5
    ol = MixupInference(ends(), ol=Average(0.4, 15)).wrap(Linear())(x)
    pl = MixupInference(ends(), pl=Average(0.5, 5), ol=None).wrap(Linear())(x)
    clean = pl[1] if on_clean == "pl" else Linear()(x).log_softmax(1)[1]
    assert torch.equal(found.logits, torch.stack([ol[0], clean, ol[2]]))
    openings = {each.name: each.classifier for each in defence.openings(Linear())}
    assert list(openings) == ["core", "defended", "pl", "ol", "both"]
    assert torch.equal(openings["pl"](x), pl) and torch.equal(openings["ol"](x), ol)
    assert torch.equal(openings["both"](x), pl + ol) and torch.equal(openings["defended"](x), found.logits)


@pytest.mark.parametrize("both", [False, True])
def test_without_mixing_it_is_the_model_to_the_last_bit(both: bool) -> None:
    module, x = net(), images(7)
    one = Average(1, 3)
    wrapped = MixupInference(random_pool(), pl=one if both else None, ol=one).wrap(module)
    assert torch.equal(wrapped(x), module(x))
    assert wrapped.answer(x).forwards.tolist() == [1] * 7
    assert torch.allclose(
        wrapped.draws(x, wrapped.key(x), others=True), module(x).softmax(1)[:, None].expand(-1, 3, -1)
    )


@pytest.mark.parametrize("sampling", ["stratified", "independent"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_partners_have_the_labels_that_they_should(sampling: str, classes: int) -> None:
    labels = torch.arange(120) % classes
    pool = Pool.of(torch.rand(120, 1, 2, 2), labels, source="noise")
    predicted, key = torch.arange(600) % classes, torch.arange(600)
    draw = partners.named(sampling)
    assert bool((pool.labels[draw(pool, predicted, key, 13, others=False)] == predicted[:, None]).all())
    index = draw(pool, predicted, key, 13, others=True)
    assert bool((pool.labels[index] != predicted[:, None]).all())
    # Every image of the pool is as likely as the next of its class, and every other class as the next.
    counts = torch.bincount(index.flatten(), minlength=120).double()
    expected = 600 * 13 / 120
    assert float((counts - expected).square().sum() / expected) < 120 + 5 * (2 * 120) ** 0.5
    if sampling == "stratified":
        per_label = torch.nn.functional.one_hot(pool.labels[index], classes).sum(1)
        per_label.scatter_(1, predicted[:, None], 13 // (classes - 1))
        assert int(per_label.max() - per_label.min()) <= 1
        assert all(len(set(row)) == 13 for row in index.tolist())


def test_a_pool_with_few_images_gives_each_before_it_repeats_one() -> None:
    pool = Pool.of(torch.rand(7, 1, 2, 2), [0, 0, 1, 1, 1, 1, 1], source="noise")
    index = partners.stratified(pool, torch.tensor([0, 1]), torch.tensor([5, 6]), 5, others=False)
    assert sorted(torch.bincount(index[0], minlength=2).tolist()) == [2, 3] and index[1].unique().tolist() == [
        2,
        3,
        4,
        5,
        6,
    ]


def test_a_permuted_pool_changes_nothing_where_every_image_has_its_turn() -> None:
    x, y = images(24, 7), torch.arange(24) % 4
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    for average in ({"pl": Average(0.5, 6), "ol": None}, {"ol": Average(0.5, 18)}):
        one, other = (
            MixupInference(Pool.of(x[at], y[at], source="noise"), **average).wrap(net())(images(9))
            for at in (torch.arange(24), order)
        )
        assert torch.allclose(one, other, atol=1e-12)


def test_the_same_draws_for_the_same_numbers_whatever_the_batch() -> None:
    x, ids = images(9), torch.arange(100, 109)
    wrapped = MixupInference(random_pool(each=40), Average(0.5, 4), Average(0.4, 7), tau=0.02).wrap(net())
    whole = wrapped(x, ids)
    assert torch.equal(wrapped(x, ids), whole) and torch.equal(wrapped.at(0)(x, ids), whole)
    order = torch.tensor([3, 0, 8, 5, 1, 7, 2, 6, 4])
    assert torch.allclose(wrapped(x[order], ids[order]), whole[order], atol=1e-12)
    assert torch.allclose(torch.cat([wrapped(a, b) for a, b in zip(x.split(2), ids.split(2))]), whole, atol=1e-12)
    others = (wrapped(x), wrapped.at(1)(x, ids), wrapped.at(0, 1)(x, ids), wrapped(x, ids + 1))
    for other in (*others, replace_seed(wrapped, 1)(x, ids)):
        assert float((other - whole).abs().amax(1).min()) > 1e-6
    assert (
        len(
            {
                tuple(row)
                for row in wrapped.draws(x[:1].expand(3, -1, -1, -1), wrapped.key(x[:3]), others=True)[:, 0].tolist()
            }
        )
        == 1
    )


def replace_seed(wrapped: MixedUp, seed: int) -> MixedUp:
    return wrapped.under(replace(wrapped.defence, seed=seed))


@pytest.mark.parametrize("others", [False, True])
def test_the_control_variate_moves_no_mean_and_takes_noise_away(others: bool) -> None:
    module, x = sharp(), images(5)
    average = Average(0.3, 6)
    settings = {"pl": average, "ol": average}
    defence = MixupInference(random_pool(each=40), **settings, sampling="independent", control_variate=False)
    plain = defence.wrap(module)
    found = {}
    for name, sampling, control in (("plain", "independent", False), ("better", "stratified", True)):
        wrapped = plain.under(replace(plain.defence, sampling=sampling, control_variate=control))
        wrapped.seen = replace(defence, control_variate=True).wrap(module).seen if control else None
        means = torch.stack(
            [wrapped.draws(x, wrapped.at(i).key(x, torch.arange(5)), others=others).mean(1) for i in range(150)]
        )
        assert torch.allclose(means.sum(2), torch.ones(150, 5, dtype=torch.float64))
        found[name] = means
    predicted = module(x).argmax(1)
    every = torch.arange(160).expand(5, -1)
    pool = random_pool(each=40)
    exact = mixtures(module, x, pool, every, 0.3).exp()
    chosen = (pool.labels == predicted[:, None]) != others
    exact = (exact * chosen[..., None]).sum(1) / chosen.sum(1, keepdim=True)
    for means in found.values():
        error = means.std(0) / 150**0.5
        assert bool(((means.mean(0) - exact).abs() < 4.5 * error + 1e-9).all())
    assert float(found["better"].var(0).sum()) < 0.5 * float(found["plain"].var(0).sum())


def test_the_average_is_one_of_probabilities_and_stays_finite() -> None:
    module, x = sharp(), images(6)
    for control in (False, True):
        wrapped = MixupInference(random_pool(), ol=Average(0.5, 6), control_variate=control).wrap(module)
        mean = wrapped.draws(x, wrapped.key(x), others=True).mean(1)
        high = mean > 0.02
        assert torch.allclose(wrapped(x).exp()[high], mean[high]) and bool(torch.isfinite(wrapped(x)).all())


def test_gradients_pass_through_the_image_alone() -> None:
    x = images(3).requires_grad_()
    for average in ({"pl": Average(0.5, 3), "ol": None}, {"ol": Average(0.6, 5)}):
        wrapped = MixupInference(random_pool(), **average).wrap(net())
        assert torch.autograd.gradcheck(
            lambda each, f=wrapped: f(each)[:, :2], (x[:1].detach().requires_grad_(),), fast_mode=True
        )
    wrapped = MixupInference(ends(), ol=Average(0.5, 4)).wrap(Linear())
    share = flat(0.9).requires_grad_()
    (found,) = torch.autograd.grad(wrapped(share).exp()[:, 0].sum(), share)
    assert torch.allclose(found, torch.full_like(found, 0.5 / 4))


def test_early_stop_draws_less_for_the_same_answers_and_never_under_gradients() -> None:
    x = images(20)
    full = MixupInference(random_pool(), pl=Average(0.5, 22), ol=None).wrap(sharp())
    stopped = full.under(replace(full.defence, early_stop=3.5))
    found = stopped.answer(x)
    assert torch.equal(found.logits.argmax(1), full(x).argmax(1))
    assert float(found.forwards.double().mean()) < 20 and set(found.forwards.tolist()) <= {5, 9, 13, 17, 21, 23}
    slow = found.forwards == 23
    assert torch.allclose(found.logits[slow], full(x)[slow])
    assert torch.equal(stopped(x.requires_grad_()), full(x)) and stopped(x).requires_grad
    assert stopped(images(0)).shape == (0, 4)


def test_the_pool_says_what_it_is_and_refuses_what_it_holds() -> None:
    x = (images(40, 3) * 255).to(torch.uint8)
    y = torch.arange(40) % 4
    pool = Pool.of(x, y, source="cifar:train", per_class=5, seed=2)
    assert pool.counts.tolist() == [5] * 4 and "cifar:train" in repr(pool) and pool.fingerprint in repr(pool)
    assert bool((pool.labels.diff() >= 0).all())
    kept = {bytes(each.flatten().tolist()): int(label) for each, label in zip(x, y)}
    assert all(kept[bytes(each.flatten().tolist())] == int(c) for each, c in zip(pool.images, pool.labels))
    assert (
        Pool.of(x.numpy(), y.numpy(), source="cifar:train", per_class=5, seed=2)
        == pool
        != Pool.of(x, y, source="cifar:train", per_class=5)
    )
    larger = Pool.of(x, y, source="cifar:train", per_class=8, seed=2)
    assert pool.digests < larger.digests and Pool.of(x, y, source="").counts.tolist() == [10] * 4
    pool.check_apart((images(10, 4) * 255).to(torch.uint8))
    with pytest.raises(BadData, match="1 images under test lie in the pool of cifar:train, the first at position 2"):
        pool.check_apart(torch.cat([images(2, 4), pool.images[3:4].double() / 255]))
    taken = pool.take(torch.tensor([[0, 1]]), torch.float32)
    assert taken.shape == (1, 2, 3, 8, 8) and torch.equal(taken[0, 1], pool.images[1].float() / 255)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MixupInference(ends(), ol=None),
        lambda: MixupInference(ends(), on_clean="ol"),
        lambda: MixupInference(ends(), tau=float("nan")),
        lambda: MixupInference(ends(), sampling="best"),
        lambda: MixupInference(ends(), early_stop=0),
        lambda: Average(0),
        lambda: Average(1.2),
        lambda: Average(0.5, 0),
        lambda: MixupInference(ends()).wrap(net()),
        lambda: MixupInference(Pool.of(images(2), [0, 0], source="one")).wrap(net(1)),
        lambda: MixupInference(ends()).wrap(Linear()).branch(others=False),
        lambda: Pool.of(images(3), [0, 2, 2], source="gap"),
        lambda: Pool.of(images(3)[0], [0], source="flat"),
        lambda: Pool.of(images(3) * 2, [0, 1, 1], source="bright"),
        lambda: Pool.of(images(3), [0, 1], source="short"),
        lambda: Pool.of(images(3), [0, 1, 1], source="none", per_class=0),
    ],
)
def test_what_makes_no_sense_is_refused(make) -> None:
    with pytest.raises(HoldfastError) as found:
        make()
    assert found.value.hint


def test_a_threshold_keeps_its_false_alarm_rate() -> None:
    draw = np.random.default_rng(0)
    rates, held = [], 0
    for _ in range(400):
        found = threshold(draw.normal(size=99), false_alarms=0.1, confidence=0.9)
        new = float((draw.normal(size=2000) >= found.value).mean())
        rates.append(new)
        held += found.rate.low <= new <= found.rate.high
    assert abs(np.mean(rates) - 0.1) < 0.005 and 0.85 < held / 400 < 0.95
    found = threshold([0.0, 0.5, 0.25, 0.75], false_alarms=0.4)
    assert found.value == np.nextafter(0.5, 1) and found.rate.value == 0.25
    assert threshold([0.1] * 19).rate.value == 0
    for scores, rate in (([0.1] * 18, 0.05), ([0.1, np.nan] * 20, 0.05), ([0.1] * 20, 0.0)):
        with pytest.raises(BadValue):
            threshold(scores, false_alarms=rate)


def rows(x: Tensor, y: Tensor, eps: float) -> Rows:
    return Rows(x, y, torch.full_like(y, -1), torch.arange(len(y)), Linf(eps))


class Recorded:
    """A classifier that draws, and says which evaluations it was asked for."""

    def __init__(self, asked: list[tuple[int, ...]], at: tuple[int, ...] = (0,)) -> None:
        self.asked, self.number = asked, at

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        self.asked.append(self.number)
        return Linear()(x)

    def at(self, *evaluation: int) -> Recorded:
        return Recorded(self.asked, evaluation)


@pytest.mark.parametrize("attack", [APGD(steps=8, loss="margin"), PGD(steps=8, loss="margin", schedule="cosine")])
def test_a_search_holds_its_draws_and_chooses_and_scores_on_others(attack) -> None:
    asked: list[tuple[int, ...]] = []
    given = rows(flat(0.9, 0.6), torch.tensor([0, 0]), 0.2)
    found = expected_worst(attack, Recorded(asked), given, rounds=3, every=4)
    assert torch.allclose(found.x, flat(0.7, 0.4), atol=1e-6)
    assert found.backwards == 24 and found.forwards == len(asked) == 24 + 1 + 6
    runs = [number for number in asked if asked.count(number) == 8]
    assert len(set(runs)) == 3 and len(set(asked)) == 4 and all(len(number) == 2 for number in asked)


def test_the_adaptive_search_is_at_least_as_strong_as_the_points_it_starts_from() -> None:
    module, x = sharp(), images(12)
    y = module(x).argmax(1)
    defence = MixupInference(random_pool(), ol=Average(0.6, 6))
    openings = {each.name: each.classifier for each in defence.openings(module)}
    given = rows(x, y, 0.1)
    attack = APGD(steps=10, loss="margin")
    oblivious = expected_worst(attack, _Fixed(module), given, rounds=1).x
    adaptive = expected_worst(attack, openings["defended"], given, starts=(oblivious,), rounds=2, every=5)
    assert bool((given.threat.distance(x, adaptive.x) <= 0.1 + 1e-6).all())
    fresh = [openings["defended"].at(number) for number in range(8)]
    value = [
        torch.stack([attack.objective(each(points, torch.arange(12)), y, given.target) for each in fresh]).mean(0)
        for points in (x, oblivious, adaptive.x)
    ]
    assert bool((value[1] > value[0]).double().mean() > 0.7) and float((value[2] - value[1]).mean()) > 0
    assert torch.equal(expected_worst(attack, openings["defended"], given, starts=(oblivious,), rounds=2).x, adaptive.x)


class _Fixed:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.model(x)

    def at(self, *evaluation: int) -> _Fixed:
        return self


def test_any_number_of_classes_and_float32() -> None:
    for classes in (2, 30):
        pool = Pool.of(
            (images(2 * classes, 5) * 255).to(torch.uint8), torch.arange(2 * classes) % classes, source="noise"
        )
        module = SmallCNN(channels=3, size=8, classes=classes).eval()
        found = MixupInference(pool, Average(0.5, 5), Average(0.5, 7), tau=0.0).wrap(module)(images(3).float())
        assert found.shape == (3, classes) and found.dtype == torch.float32 and bool(torch.isfinite(found).all())


def foreign_pool(each: int = 4) -> Pool:
    """Three classes that the model does not have."""
    return Pool.of(images(3 * each, 11), torch.arange(3 * each) % 3, source="other:train", foreign=True)


@pytest.mark.parametrize("sampling", ["independent", "stratified"])
def test_partners_of_a_foreign_pool_are_of_all_its_classes(sampling: str) -> None:
    pool, predicted = foreign_pool(), torch.tensor([0, 1, 2, 3] * 50)
    places = partners.named(sampling)(pool, predicted, torch.arange(200), 12, others=True)
    counts = torch.stack([torch.bincount(pool.labels[row], minlength=3) for row in places])
    if sampling == "stratified":
        assert (counts == 4).all()  # every class takes its turn, whatever was predicted
        assert all(len(set(row.tolist())) == 12 for row in places)
    else:
        assert (counts.double().mean(0) - 4).abs().max() < 0.5


def test_the_control_variate_of_a_foreign_pool_is_without_bias() -> None:
    x, module = images(3, 2), net()
    whole = MixupInference(foreign_pool(), ol=Average(0.5, 12)).wrap(module)  # all twelve partners, once
    plain = MixupInference(foreign_pool(), ol=Average(0.5, 12), control_variate=False).wrap(module)
    assert torch.allclose(whole(x), plain(x), atol=1e-6)
    few = MixupInference(foreign_pool(), ol=Average(0.5, 3)).wrap(module)
    mean = torch.stack([few.at(number)(x).exp() for number in range(150)]).mean(0)
    assert torch.allclose(mean, plain(x).exp(), atol=3e-3)


def test_a_foreign_pool_has_no_partners_of_the_predicted_class() -> None:
    with pytest.raises(BadValue, match="it is foreign"):
        MixupInference(foreign_pool(), pl=Average(0.5, 5))
    assert foreign_pool() != Pool.of(images(12, 11), torch.arange(12) % 3, source="other:train")
