"""The attacks without gradients beside torchattacks, Foolbox and ART, where they are installed, at as many queries."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
import torch
from test_apgd_reference import trained
from torch import Tensor, nn

from holdfast.attacks.boundary import Boundary
from holdfast.attacks.hop_skip_jump import HopSkipJump
from holdfast.attacks.nes import NES
from holdfast.attacks.spsa import SPSA
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf


def peer(name: str):
    """The package, or a skip with the reason why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:  # a foreign package may raise anything at import
        pytest.skip(f"{name} cannot be imported: {type(error).__name__}: {error}")


class Counted(nn.Module):
    """A model that counts the images it is asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.inner(x.float())


@pytest.fixture(scope="module")
def subject():
    net, x, y = trained()
    net, x = net.float(), x.float()
    right = net(x).argmax(1) == y
    yield net.eval(), x[right][:12], y[right][:12]
    net.double()


def beside(theirs, subject):
    """The peer's points, and how many queries per image they cost it."""
    net, x, y = subject
    counted = Counted(net).eval()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        state = np.random.get_state()  # noqa: NPY002 - Foolbox and ART draw from it
        np.random.seed(0)  # noqa: NPY002
        try:
            points = theirs(counted, x, y)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return points.detach(), counted.asked // len(x)


def blended():
    return peer("foolbox").attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)


def foolbox(attack, net, x, y):
    return attack(peer("foolbox").PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[0]


def art(kind, net, x, y, **options):
    attacks = peer("art.attacks.evasion")
    wrapper = peer("art.estimators.classification").PyTorchClassifier
    wrapped = wrapper(net, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1))
    attack = getattr(attacks, kind)(wrapped, verbose=False, **options)
    return torch.tensor(attack.generate(x.numpy(), y=y.numpy()))


def foolbox_boundary(net, x, y):
    return foolbox(peer("foolbox").attacks.BoundaryAttack(init_attack=blended(), steps=700), net, x, y)


def foolbox_hop_skip_jump(net, x, y):
    return foolbox(peer("foolbox").attacks.HopSkipJumpAttack(init_attack=blended(), steps=5), net, x, y)


def art_boundary(net, x, y):
    return art("BoundaryAttack", net, x, y, targeted=False, max_iter=30)


def art_hop_skip_jump(net, x, y):
    return art("HopSkipJump", net, x, y, norm=2, max_iter=5, init_eval=100)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (Boundary, foolbox_boundary),
        (Boundary, art_boundary),
        (HopSkipJump, foolbox_hop_skip_jump),
        (HopSkipJump, art_hop_skip_jump),
    ],
    ids=["boundary-foolbox", "boundary-art", "hop_skip_jump-foolbox", "hop_skip_jump-art"],
)
def test_label_only_attacks_are_no_further_away_than_a_peer(kind, theirs, subject):
    net, x, y = subject
    points, queries = beside(theirs, subject)
    ours = kind(steps=queries - 2)(net, x, y, threat=L2(1e3))
    assert torch.equal(ours.fooled, net(ours.x).argmax(1) != y)
    fooled = net(points).argmax(1) != y
    far = torch.where(fooled, L2(1e3).distance(x, points), torch.inf)
    near = torch.where(ours.fooled, ours.distance, torch.inf)
    print(f"{kind.__name__}, {queries} queries: median {near.median():.3f}, {theirs.__name__} {far.median():.3f}")
    assert near.median() <= 1.02 * far.median()


@pytest.mark.parametrize("kind", [NES, SPSA], ids=lambda kind: kind.__name__)
def test_score_attacks_fool_as_often_as_torchattacks(kind, subject):
    net, x, y = subject
    eps = 0.08

    def theirs(counted, x, y):
        return peer("torchattacks").SPSA(counted, eps=eps, lr=0.01, nb_iter=12, nb_sample=32)(x, y)

    points, queries = beside(theirs, subject)
    assert (points - x).abs().max() <= eps + 1e-6
    ours = kind(steps=queries - 2)(net, x, y, threat=Linf(eps))
    fooled = int((net(points).argmax(1) != y).sum())
    print(f"{kind.__name__}, {queries} queries: {int(ours.fooled.sum())} of {len(x)}, torchattacks {fooled}")
    assert int(ours.fooled.sum()) >= fooled
