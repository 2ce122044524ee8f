"""What every attack must keep, ours or a plug-in's: plain functions that take (attack, threat) and raise AssertionError.

A new kind of component gets such a file of its own; `registered` lists the components of any kind. The nets and images
that the attacks are tried on are made here, in a few hundredths of a second, from fixed seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.attack import Attack, Perturbed, ranking
from holdfast.ascent.state import Rows
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

SLOTS = (None, 1, 3)  # None: as many as the engine chooses, here all
FEW = (None, 3)
SLACK = 1e-6


def registered(kind: str) -> list[tuple[str, Any]]:
    """(name, component) of everything registered under a kind."""
    return [(name, registry.load(kind, name)) for name in registry.names(kind)]


class Case(NamedTuple):
    """A net, images it was trained on for a moment, and labels, some of them not what it says."""

    net: nn.Module
    x: Tensor
    y: Tensor


class Exact(nn.Module):
    """A linear layer without BLAS: a row's sum is formed in the same order whatever the batch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum(2) + self.bias


def _build(kind: str, classes: int, channels: int, height: int, width: int) -> nn.Module:
    size = channels * height * width
    if kind == "conv":
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * ((height + 1) // 2) * ((width + 1) // 2), classes),
        )  # fmt: skip
    if kind == "norm":
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3),
            nn.Flatten(), nn.Linear(6 * height * width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes),
        )  # fmt: skip
    linear = {"mlp": nn.Linear, "exact": Exact}[kind]
    return nn.Sequential(nn.Flatten(), linear(size, 24), nn.ReLU(), linear(24, classes))


@functools.cache
def _case(kind: str, classes: int, channels: int, height: int, width: int, count: int) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = _build(kind, classes, channels, height, width).double()
        middle = 0.5 + 0.45 * (torch.rand(classes, channels, height, width, dtype=torch.float64) - 0.5)
        y = torch.arange(max(count, 8 * classes)) % classes
        noisy = middle[y] + 0.22 * torch.randn(len(y), channels, height, width, dtype=torch.float64)
        x = (noisy.clamp(0, 1) * 255).round() / 255  # 8 bits; many pixels are exactly 0 or 1
        descent = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(25):
            descent.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            descent.step()
        net.zero_grad()
    x, y = x[:count], y[:count].clone()
    y[2::7] = (y[2::7] + 1) % classes  # misclassified from the start
    return Case(net.eval(), x, y)


def case(
    kind: str = "conv",
    *,
    classes: int = 5,
    shape: tuple[int, int, int] = (3, 6, 4),
    count: int = 12,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A fresh copy; ``kind``: conv, norm (batch norm and dropout), mlp, or exact (arithmetic that ignores the batch)."""
    net, x, y = _case(kind, classes, *shape, count)
    return Case(copy.deepcopy(net).to(dtype), x.to(dtype), y)


@functools.cache
def outcome(attack: Attack, threat: Threat) -> tuple[Case, Perturbed]:
    """The plain case and what the attack makes of it, once for all the clauses that ask about it."""
    given = case()
    return given, attack(given.net, given.x, given.y, threat=threat)


def assert_same(one: Perturbed, other: Perturbed) -> None:
    """Equal to the last bit."""
    for field in dataclasses.fields(one):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def assert_sound(found: Perturbed, given: Case, threat: Threat) -> None:
    """Shapes, dtypes; inside ball and box; ``fooled`` and ``distance`` as a fresh look finds them."""
    net, x, y = given
    assert found.x.shape == x.shape and found.x.dtype == x.dtype
    assert found.fooled.dtype == torch.bool and found.forwards.dtype == found.backwards.dtype == torch.int64
    assert all(getattr(found, f.name).shape == y.shape for f in dataclasses.fields(found) if f.name != "x")
    assert torch.isfinite(found.x).all() and torch.isfinite(found.value).all() and torch.isfinite(found.margin).all()
    assert not any(getattr(found, f.name).requires_grad for f in dataclasses.fields(found))
    if len(x):
        assert found.x.min() >= 0 and found.x.max() <= 1
    if threat.parametric:  # how far an image was turned cannot be measured on it
        assert (found.distance >= 0).all() and (found.distance <= threat.eps + SLACK).all()
    else:
        assert not len(x) or threat.distance(x.double(), found.x.double()).max() <= threat.eps + SLACK
        torch.testing.assert_close(found.distance, threat.distance(x, found.x))
    with torch.no_grad():
        logits = net.eval()(found.x) if len(x) else torch.zeros(0, 2)
    assert torch.equal(found.fooled, logits.argmax(1) != y)
    assert ((found.margin < 0) <= found.fooled).all() and ((found.margin > 0) <= ~found.fooled).all()


# The contract, one function a clause.


def is_described(attack: Attack) -> None:
    """The docstring names a source; the configuration is plain data from which the same attack can be made again."""
    kind = type(attack)
    assert kind.__doc__ and "Source:" in kind.__doc__
    assert "\n" not in kind.__doc__.partition("\n")[0].strip() and kind.__doc__.partition("\n")[0].endswith(".")
    plain = json.loads(json.dumps(attack.configuration()))
    assert kind(**plain) == attack and hash(kind(**plain)) == hash(attack)
    assert kind.goal in ("budget", "minimal") and kind.needs in ("gradients", "scores", "labels")
    known = registry.names("threat")
    assert kind.threats and set(kind.threats) <= set(known)


def refuses_what_it_cannot_do(attack: Attack) -> None:
    """An unknown loss, and a threat set outside `threats`, are errors with a hint, before any evaluation."""
    given = case()

    class Foreign(Linf):
        name = "foreign"  # type: ignore[assignment]

    with pytest.raises(BadValue) as caught:
        attack(_never, given.x, given.y, threat=Foreign(0.1))
    assert all(name in caught.value.hint for name in attack.threats)
    if "loss" in {f.name for f in dataclasses.fields(attack)}:  # type: ignore[arg-type]
        with pytest.raises(UnknownName) as unknown:
            nameless = dataclasses.replace(attack, loss="no such loss")  # type: ignore[type-var]
            nameless(_never, given.x, given.y, threat=_any(attack))
        assert "ce" in unknown.value.hint


def _never(x: Tensor) -> Tensor:
    raise AssertionError("the model was evaluated")


def _any(attack: Attack) -> Threat:
    return registry.load("threat", attack.threats[0])(1)


def stays_inside(attack: Attack, threat: Threat) -> None:
    """Inside the ball and the pixel box to 1e-6, in both precisions, and `fooled` is what a fresh prediction says."""
    given, found = outcome(attack, threat)
    assert_sound(found, given, threat)
    for seed, kind in ((3, "mlp"), (4, "norm")):
        given = case(kind, dtype=torch.float32)
        assert_sound(attack(given.net, given.x, given.y, threat=threat, seed=seed), given, threat)


def takes_any_size(attack: Attack, threat: Threat) -> None:
    """Grey, colour, not square, a single pixel row; any number of classes."""
    for shape, classes in (((1, 5, 8), 2), ((3, 7, 3), 3), ((4, 1, 6), 100)):
        given = case("conv", shape=shape, classes=classes, count=6)
        assert_sound(attack(given.net, given.x, given.y, threat=threat), given, threat)


def takes_extreme_pixels(attack: Attack, threat: Threat) -> None:
    """Black, white and black-and-white images."""
    net, x, y = case("conv")
    x = x.clone()
    x[0], x[1], x[3] = 0, 1, x[3].round()
    y = net(x).argmax(1)
    given = Case(net, x, y)
    assert_sound(attack(net, x, y, threat=threat), given, threat)


def survives_huge_logits(attack: Attack, threat: Threat) -> None:
    """Logits times 1000: no NaN, nothing outside, nothing claimed that is not so."""
    for dtype in (torch.float32, torch.float64):
        net, x, y = case("mlp", dtype=dtype)
        net[-1].weight.data *= 1000
        net[-1].bias.data *= 1000
        assert_sound(attack(net, x, y, threat=threat), Case(net, x, y), threat)


def repeats_itself(attack: Attack, threat: Threat) -> None:
    """The same seed gives the same bits; the draws of a sample are its own, whatever its place in the batch."""
    net, x, y = case("exact")
    first = attack(net, x, y, threat=threat, seed=3)
    order = torch.tensor([5, 3, 11, 0, 7, 2])
    moved = attack(net, x[order], y[order], threat=threat, seed=3, ids=order)
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(moved, field.name), getattr(first, field.name)[order]), field.name


def ignores_the_number_of_slots(attack: Attack, threat: Threat, *, count: int = 8) -> float:
    """Slots of 1, 3 and all: the same bits where the net's own arithmetic ignores the batch, in either precision.

    Through BLAS a row's sums are formed in another order in another batch. In float64 verdicts, costs and values are still
    the same, and points to 1e-9. The largest difference of a pixel is returned.
    """
    for dtype, every in ((torch.float64, SLOTS), (torch.float32, FEW)):
        net, x, y = case("exact", count=count, dtype=dtype)
        results = [attack(net, x, y, threat=threat, slots=slots) for slots in every]
        for result in results[1:]:
            assert_same(results[0], result)
    largest = 0.0
    for kind in ("conv", "mlp"):
        net, x, y = case(kind, count=count)
        one, other = (attack(net, x, y, threat=threat, slots=slots) for slots in FEW)
        assert torch.equal(one.fooled, other.fooled)
        assert torch.equal(one.forwards, other.forwards)
        assert torch.equal(one.backwards, other.backwards)
        largest = max(largest, float((one.x - other.x).abs().max()))
        assert largest <= 1e-9
        torch.testing.assert_close(one.value, other.value, rtol=1e-9, atol=1e-9)
    return largest


class Difference(NamedTuple):
    """Between slot counts in float32: samples with another verdict, samples in all, largest difference of a pixel."""

    verdicts: int
    samples: int
    pixel: float


def differs_little_in_float32(attack: Attack, threat: Threat, *, count: int = 12) -> Difference:
    """How much the number of slots changes in float32: sound at each; at most one verdict in 12 differs."""
    verdicts, samples, pixel = 0, 0, 0.0
    for kind in ("conv", "mlp"):
        net, x, y = case(kind, dtype=torch.float32, count=count)
        one, other = (attack(net, x, y, threat=threat, slots=slots) for slots in FEW)
        assert_sound(other, Case(net, x, y), threat)
        changed = int((one.fooled != other.fooled).sum())
        assert changed <= len(y) / 12
        verdicts, samples = verdicts + changed, samples + len(y)
        pixel = max(pixel, float((one.x - other.x).abs().max()))
    return Difference(verdicts, samples, pixel)


def does_nothing_at_radius_zero(attack: Attack, threat: Threat) -> None:
    """Radius 0 gives the clean image and the clean prediction."""
    given = case()
    found = attack(given.net, given.x, given.y, threat=threat.resized(0))
    assert torch.equal(found.x, given.x)
    assert torch.equal(found.fooled, given.net(given.x).argmax(1) != given.y)
    assert (found.distance == 0).all()


def never_keeps_less_than_it_began_with(attack: Attack, threat: Threat) -> None:
    """`value` is the loss at `x`, and where nothing fooled it is at least that of every search's first point in the set."""
    (net, x, y), found = outcome(attack, threat)
    with torch.no_grad():
        logits, last = net(x), net(found.x)
        targets = attack.searches(ranking(logits, y))
        right = logits.argmax(1) == y
        at_x = torch.stack([attack.objective(last, y, targets[:, s]) for s in range(targets.shape[1])], 1)
        at_x = torch.cat([at_x, attack.objective(last, y, torch.full_like(y, -1))[:, None]], 1)
        assert ((at_x - found.value[:, None]).abs().amin(1) <= 1e-9).all()
        key = keys.fold(keys.root(0), torch.arange(len(x)))
        key = keys.fold(key, keys.number(registry.name_of(attack)))
        for search in range(targets.shape[1]):
            rows = Rows(x, y, targets[:, search], keys.fold(key, search), threat)
            start = attack.begin(net, rows).x
            counts = right & ~found.fooled & (threat.distance(x, start) <= threat.eps + 1e-9)
            begun = attack.objective(net(threat.render(x, start)), y, targets[:, search])
            assert (found.value[counts] >= begun[counts] - 1e-9).all()


def leaves_everything_as_it_was(attack: Attack, threat: Threat) -> None:
    """A model in training mode with batch norm and dropout: evaluated in eval mode, handed back as it was found."""
    net, x, y = case("norm")
    quiet = attack(net, x, y, threat=threat)
    net.train()
    net[1].eval()  # one of them frozen
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [each.training for each in net.modules()]
    needs = [each.requires_grad for each in net.parameters()]
    clean = x.clone(), y.clone()
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = attack(net, x, y, threat=threat)
    assert torch.equal(torch.get_rng_state(), draws[0]) and random.getstate() == draws[1]
    assert np.random.get_state()[1].tolist() == draws[2]  # noqa: NPY002
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [each.training for each in net.modules()] == modes
    assert [each.requires_grad for each in net.parameters()] == needs
    assert [name for name, each in net.named_parameters() if each.grad is not None] == ["5.weight"]
    assert (net[5].weight.grad == 1).all()
    assert torch.equal(x, clean[0]) and torch.equal(y, clean[1]) and not x.requires_grad
    assert torch.is_grad_enabled()
    assert_same(found, quiet)


def takes_no_samples(attack: Attack, threat: Threat) -> None:
    """N = 0, and a batch in which nothing is left to attack."""
    net, x, y = case()
    assert_sound(attack(net, x[:0], y[:0], threat=threat), Case(net, x[:0], y[:0]), threat)
    wrong = (net(x).argmax(1) + 1) % 5
    found = attack(net, x, wrong, threat=threat)
    assert found.fooled.all() and found.backwards.sum() == 0


def leaves_misclassified_samples_alone(attack: Attack, threat: Threat) -> None:
    """A sample that is misclassified from the start comes back unchanged, for one forward."""
    (net, x, y), found = outcome(attack, threat)
    wrong = net(x).argmax(1) != y
    assert wrong.any() and not wrong.all()
    assert found.fooled[wrong].all() and torch.equal(found.x[wrong], x[wrong])
    assert (found.forwards[wrong] == 1).all() and (found.backwards[wrong] == 0).all()
    assert (found.distance[wrong] == 0).all() and (found.margin[wrong] <= 0).all()
    assert (found.forwards[~wrong] > 1).all()


def keeps_to_its_estimate(attack: Attack, threat: Threat) -> None:
    """No sample costs more than `searches` and `steps_on` say."""
    (net, x, y), found = outcome(attack, threat)
    with torch.no_grad():
        width = attack.searches(ranking(net(x), y)).shape[1]
    steps = width * attack.steps_on(threat)
    assert found.backwards.max() <= steps and found.forwards.max() <= 1 + steps + width


CLAUSES = [
    stays_inside,
    takes_any_size,
    takes_extreme_pixels,
    survives_huge_logits,
    repeats_itself,
    does_nothing_at_radius_zero,
    never_keeps_less_than_it_began_with,
    leaves_misclassified_samples_alone,
    keeps_to_its_estimate,
]
"""The clauses that take (attack, threat) and return nothing."""

OF_THE_ATTACK = [leaves_everything_as_it_was, takes_no_samples]
"""Those in which the threat set plays no part: one set will do."""
