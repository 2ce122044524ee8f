"""PGD beside torchattacks and Foolbox, where they are installed: the same net, images, steps and step size."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from test_apgd_reference import trained

from holdfast.attacks.pgd import PGD
from holdfast.threats.linf import Linf

EPS, STEPS, STEP = 0.08, 40, 0.005


def peer(name: str):
    """The package, or a skip with the reason why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (
        Exception
    ) as error:  # a foreign package may raise anything at import: torchattacks needs a working torchvision
        pytest.skip(f"{name} cannot be imported: {type(error).__name__}: {error}")


def torchattacks_pgd(net, x, y):
    attack = peer("torchattacks").PGD(net, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    return attack(x, y)


def foolbox_pgd(net, x, y):
    foolbox = peer("foolbox")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    return attack(foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=EPS)[1]


@pytest.mark.parametrize("theirs", [torchattacks_pgd, foolbox_pgd], ids=["torchattacks", "foolbox"])
def test_never_weaker_than_a_peer(theirs):
    net, x, y = trained()
    net, x = net.float(), x.float()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            points = theirs(net, x, y).detach()
        ours = PGD(steps=STEPS, step_size=STEP)(net, x, y, threat=Linf(EPS))
        fooled = net(points).argmax(1) != y
        assert (points - x).abs().max() <= EPS + 1e-6
        assert int(ours.fooled.sum()) >= int(fooled.sum())
        print(f"fooled of {len(x)}: holdfast {int(ours.fooled.sum())}, {theirs.__name__} {int(fooled.sum())}")
    finally:
        net.double()
