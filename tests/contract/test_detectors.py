"""The contract of detectors, for every registered one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from scipy.stats import betabinom
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.expected import SELECT
from holdfast.ascent.frozen import frozen
from holdfast.ascent.inner import worst
from holdfast.ascent.state import Rows
from holdfast.attacks.apgd import APGD
from holdfast.attacks.pgd import PGD
from holdfast.detectors.detector import Detector, Fitted, Fixed
from holdfast.detectors.evasion import Unnoticed, evade
from holdfast.detectors.guard import Guard
from holdfast.foundation import registry
from holdfast.losses import margin
from holdfast.threats.linf import Linf

NAMES = registry.names("detector")
CLASSES = 5


def images(count: int, seed: int = 0) -> Tensor:
    """Blobs of one colour each under noise, so that clean images differ in how sure a net is of them."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 1, 1, generator=draw) + 0.4 * torch.rand(count, 3, 8, 8, generator=draw)) / 1.4


def detector(name: str) -> Detector:
    return registry.load("detector", name)()


def net(name: str) -> nn.Module:
    """A net with everything that a detector could touch: batch norm, dropout, frozen parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            *(nn.Linear(24, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, CLASSES + (name == "extra_class"))),
        )
        module.train()
        for _ in range(20):
            module(images(32))
        with torch.no_grad():
            module[-1].weight.mul_(8)
            module[-1].bias.sub_(module.eval()(images(200)).mean(0))
    module[5].weight.requires_grad_(False)
    return module.eval()


def fitted(name: str, module: nn.Module) -> Fitted:
    x = images(60, 1).to(next(module.parameters()).dtype)
    return detector(name).fit(module, x, torch.arange(60) % CLASSES)


def state(module: nn.Module) -> list[object]:
    tensors = [*module.parameters(), *module.buffers()]
    flags = [(each.training, len(each._forward_hooks), len(each._forward_pre_hooks)) for each in module.modules()]
    return [[(id(each), each.detach().numpy().tobytes(), each.requires_grad, each.grad) for each in tensors], flags]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_stays_as_it_is(name: str) -> None:
    for mode in (False, True):
        module = net(name).train(mode)
        before, generator = state(module), torch.get_rng_state()
        found = fitted(name, module)
        x = images(4).requires_grad_()
        found(x).score.sum().backward()
        assert state(module) == before and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_the_same_again_and_in_any_batch(name: str) -> None:
    module = net(name).double()
    one, other = fitted(name, module), fitted(name, copy.deepcopy(module).train())
    x, ids = images(9).double(), torch.arange(9)
    with torch.no_grad():
        logits, score = one(x, ids)
        assert logits.shape == (9, CLASSES) and torch.allclose(logits, module(x)[:, :CLASSES], atol=1e-10)
        assert score.shape == (9,) and score.dtype == torch.float64 and bool(torch.isfinite(score).all())
        assert score.unique().numel() == 9
        assert torch.equal(one(x, ids).score, score) and torch.equal(other(x, ids).score, score)
        assert torch.allclose(torch.cat([one(x[:2], ids[:2]).score, one(x[2:], ids[2:]).score]), score, atol=1e-10)
        assert one(x[:0]).score.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_numbered(name: str) -> None:
    found, x = fitted(name, net(name)), images(9)
    with torch.no_grad():
        again = found.at(3, 1)(x).score
        assert torch.equal(found.at(3, 1)(x).score, again)
        assert torch.equal(found.at(4)(x).score, again) == isinstance(found, Fixed)


@pytest.mark.parametrize("name", NAMES)
def test_how_gradients_are_switched_changes_no_score_and_they_pass_or_it_says_why_not(name: str) -> None:
    module = net(name)
    plain = fitted(name, module)
    with torch.inference_mode():
        other = fitted(name, module)
        seen = other(images(6)).score.clone()
    x = images(6).requires_grad_()
    score = other(x).score
    assert torch.equal(score, seen) and torch.equal(plain(images(6)).score, seen) and not plain(images(6)).score.grad_fn
    if not detector(name).flat:
        (gradient,) = torch.autograd.grad(score.sum(), x)
        assert bool(torch.isfinite(gradient).all()) and bool((gradient.flatten(1).abs().amax(1) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_has_its_rate_of_false_alarms_on_fresh_images(name: str) -> None:
    guard = Guard.calibrated(fitted(name, net(name)), images(199, 2), false_alarms=0.1)
    fresh = int(guard.evaluate(images(400, 3)).rejected.sum())
    law = betabinom(400, 20, 180)  # the 20 largest of 199 and a new one are to be rejected
    assert law.cdf(fresh) > 0.0005 and law.sf(fresh - 1) > 0.0005
    assert float(guard.evaluate(images(199, 2)).rejected.double().mean()) == guard.threshold.rate.value


@pytest.mark.parametrize("name", NAMES)
def test_the_adaptive_attack_is_never_weaker_than_the_oblivious_one(name: str) -> None:
    module, x, threat = net(name), images(16, 4), Linf(0.05)
    found = fitted(name, module)
    y = found(x).logits.argmax(1)
    guard = Guard.calibrated(found, images(99, 2), false_alarms=0.2)
    rows = Rows(x, y, torch.full_like(y, -1), keys.fold(keys.root(1), torch.arange(16)), threat)
    with frozen(module):
        oblivious = worst(PGD(steps=5), lambda x: module(x)[:, :CLASSES], rows)
    adaptive = evade(APGD(steps=5, loss="margin"), guard, x, y, threat=threat, starts=[oblivious], rounds=1)
    assert bool((threat.distance(x, adaptive.x) <= 0.05 + 1e-6).all()) and float(adaptive.x.min()) >= 0
    with torch.no_grad():
        reached = margin(Unnoticed(guard, y).at(SELECT, 0)(oblivious), y, rows.target)
    assert bool((adaptive.value >= reached).all()) and float((adaptive.value - reached).mean()) > 0
    if isinstance(found, Fixed):
        safe = [guard.evaluate(points).safe(y)[:, 0] for points in (oblivious, adaptive.x)]
        assert not bool((safe[1] & ~safe[0]).any()) and torch.equal(safe[1], adaptive.value <= 0)
    again = evade(APGD(steps=5, loss="margin"), guard, x, y, threat=threat, starts=[oblivious], rounds=1)
    assert torch.equal(again.x, adaptive.x)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_configuration_and_names_its_source(name: str) -> None:
    kind = registry.load("detector", name)
    assert dataclasses.is_dataclass(kind) and kind() == kind() and kind.__dataclass_params__.frozen
    assert isinstance(kind.flat, str) and "Source" in kind.__doc__
    assert kind.__name__.lower() == name.replace("_", "")
