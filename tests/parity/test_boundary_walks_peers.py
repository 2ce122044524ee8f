"""DeepFool, LBFGS, JSMA, SparseFool, FAB and Square beside their peers, where these are installed: the same net and images.

A peer's points are judged by a fresh forward; a sample that it leaves unbroken counts as infinitely far.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from test_apgd_reference import trained
from test_peers import peer
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.attacks.deep_fool import DeepFool
from holdfast.attacks.fab import FAB
from holdfast.attacks.jsma import JSMA
from holdfast.attacks.lbfgs import LBFGS
from holdfast.attacks.sparse_fool import SparseFool
from holdfast.attacks.square import Square
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.threats.threat import Threat

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]


def run(
    theirs: Peer, ours: Attack, threat: Threat, case: tuple[nn.Module, Tensor, Tensor], *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The distances that the peer and the attack reach, (N,) each; inf where nothing was found."""
    net, x, y = case
    net, x = net.float(), x.float()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            points = theirs(net, x, y).detach()
        found = ours(net, x, y, threat=threat, seed=seed)
        assert torch.equal(found.fooled, net(found.x).argmax(1) != y)
        assert points.min() >= -1e-6 and points.max() <= 1 + 1e-6
        fooled = net(points).argmax(1) != y
    finally:
        net.double()
    distances = (
        torch.where(fooled, threat.distance(x, points), torch.inf),
        torch.where(found.fooled, found.distance, torch.inf),
    )
    for name, each in zip(("theirs", "ours"), distances):
        print(f"{name}: found {int(each.isfinite().sum())} of {len(x)}, median {float(each.median()):.4f}")
    return distances


def foolbox_attack(name: str, **options) -> Peer:
    def attack(net, x, y):
        foolbox = peer("foolbox")
        kind = getattr(foolbox.attacks, name)
        return kind(**options)(foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1]

    return attack


def torchattacks_attack(name: str, **options) -> Peer:
    return lambda net, x, y: getattr(peer("torchattacks"), name)(net, **options)(x, y)


def art_jsma(net, x, y):
    """The Adversarial Robustness Toolbox, towards the class of the second largest logit."""
    evasion, estimators = peer("art.attacks.evasion"), peer("art.estimators.classification")
    target = net(x).detach().scatter(1, y[:, None], -torch.inf).argmax(1)
    wrapped = estimators.PyTorchClassifier(
        net, nn.CrossEntropyLoss(), tuple(x.shape[1:]), nb_classes=6, clip_values=(0, 1)
    )
    attack = evasion.SaliencyMapMethod(wrapped, theta=1.0, gamma=1.0, verbose=False)
    return torch.tensor(attack.generate(x.numpy(), nn.functional.one_hot(target, 6).numpy()))


MINIMAL = {
    "deep_fool-l2-foolbox": (foolbox_attack("L2DeepFoolAttack", steps=50), DeepFool(), L2(1e3)),
    "deep_fool-linf-foolbox": (foolbox_attack("LinfDeepFoolAttack", steps=50), DeepFool(), Linf(1)),
    "deep_fool-l2-torchattacks": (torchattacks_attack("DeepFool", steps=50), DeepFool(), L2(1e3)),
    "lbfgs-l2-foolbox-cw": (
        foolbox_attack("L2CarliniWagnerAttack", binary_search_steps=9, steps=50), LBFGS(targets=5), L2(1e3),
    ),
    "sparse_fool-l0-torchattacks": (torchattacks_attack("SparseFool", steps=10, lam=3), SparseFool(), L0(48)),
    "sparse_fool-l1-torchattacks": (torchattacks_attack("SparseFool", steps=10, lam=1), SparseFool(), L1(48)),
    "jsma-l0-art": (art_jsma, JSMA(targets=1), L0(48)),
}  # fmt: skip


@pytest.mark.parametrize("name", MINIMAL)
def test_finds_as_many_and_no_further_away(name):
    theirs, ours = run(*MINIMAL[name], trained())
    assert ours.isfinite().sum() >= theirs.isfinite().sum()
    assert ours.median() <= 1.02 * theirs.median()


@pytest.mark.parametrize("threat", [Linf(0.08), L2(0.5)], ids=lambda threat: threat.name)
def test_fab_breaks_what_the_authors_port_breaks(threat):
    # Not in L1: torchattacks stops there on an unbound variable.
    options = {"norm": threat.name.capitalize(), "eps": threat.eps, "steps": 20, "multi_targeted": True, "n_classes": 6}
    theirs, ours = run(torchattacks_attack("FAB", **options), FAB(steps=20, targets=5), threat, trained())
    assert (ours <= threat.eps + 1e-6).sum() >= (theirs <= threat.eps + 1e-6).sum()


@functools.cache
def wide() -> tuple[nn.Module, Tensor, Tensor]:
    """The same on 40 grey images of 15 by 15 pixels: on smaller ones the peer has no room for its squares."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(225, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        middle = 0.5 + 0.12 * (torch.rand(4, 1, 15, 15, dtype=torch.float64) - 0.5)
        y = torch.arange(80) % 4
        x = (middle[y] + 0.2 * torch.randn(80, 1, 15, 15, dtype=torch.float64)).clamp(0, 1)
        descent = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(40):
            descent.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            descent.step()
    right = (net(x).argmax(1) == y).nonzero()[:40, 0]
    return net.eval(), x[right], y[right]


@pytest.mark.parametrize("threat", [Linf(0.07), L2(1.0)], ids=lambda threat: threat.name)
def test_square_breaks_as_much_as_the_authors_port(threat):
    """Random search: over two seeds together, to within two standard errors of the difference of equal attacks."""
    broken = torch.zeros(2)
    for seed in range(2):
        options = {"norm": threat.name.capitalize(), "eps": threat.eps, "n_queries": 100, "seed": seed}
        theirs, ours = run(
            torchattacks_attack("Square", **options), Square(steps=100, rescale=True), threat, wide(), seed=seed
        )
        broken += torch.stack([(each <= threat.eps + 1e-5).sum() for each in (theirs, ours)])
    assert 0 < broken[0] < 80  # else it would say nothing
    assert broken[1] >= broken[0] - 2 * (2 * broken[0]).sqrt()
