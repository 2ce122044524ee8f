"""DDN, FMN, CW and EAD beside Foolbox and adv-lib, where they are installed: the same net, images and steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from test_apgd_reference import trained
from test_peers import peer
from torch import Tensor, nn

from holdfast.ascent.attack import Attack
from holdfast.attacks.cw import CW
from holdfast.attacks.ddn import DDN
from holdfast.attacks.ead import EAD
from holdfast.attacks.fmn import FMN
from holdfast.threats.l0 import L0
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

WIDE = {"linf": Linf(1), "l2": L2(1e3), "l1": L1(1e6), "l0": L0(10_000)}
Points = Callable[[nn.Module, Tensor, Tensor], Tensor]


def foolbox(name: str, **options: object) -> Points:
    def points(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        package = peer("foolbox")
        attack = getattr(package.attacks, name)(**options)
        return attack(package.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[0]

    return points


def adv_lib(name: str, **options: object) -> Points:
    return lambda net, x, y: getattr(peer("adv_lib.attacks"), name)(net, x, y, **options)


def adv_lib_cw(norm: str, **options: object) -> Points:
    return lambda net, x, y: getattr(peer("adv_lib.attacks.carlini_wagner"), f"carlini_wagner_{norm}")(
        net, x, y, **options
    )


CASES: list[tuple[str, Attack, str, Points]] = [
    ("ddn-foolbox", DDN(), "l2", foolbox("DDNAttack", steps=100)),
    ("ddn-adv_lib", DDN(), "l2", adv_lib("ddn", steps=100, levels=None)),
    ("fmn-foolbox", FMN(steps=40), "linf", foolbox("LInfFMNAttack", steps=40)),
    ("fmn-foolbox", FMN(steps=40), "l2", foolbox("L2FMNAttack", steps=40)),
    ("fmn-foolbox", FMN(steps=40), "l1", foolbox("L1FMNAttack", steps=40)),
    ("fmn-foolbox", FMN(steps=40), "l0", foolbox("L0FMNAttack", steps=40)),
    ("fmn-adv_lib", FMN(steps=40), "linf", adv_lib("fmn", norm=float("inf"), steps=40)),
    ("fmn-adv_lib", FMN(steps=40), "l2", adv_lib("fmn", norm=2, steps=40)),
    ("fmn-adv_lib", FMN(steps=40), "l1", adv_lib("fmn", norm=1, steps=40)),
    ("fmn-adv_lib", FMN(steps=40), "l0", adv_lib("fmn", norm=0, steps=40)),
    ("cw-foolbox", CW(steps=40), "l2", foolbox("L2CarliniWagnerAttack", steps=40, binary_search_steps=9)),
    ("cw-adv_lib", CW(steps=40), "l2", adv_lib_cw("l2", binary_search_steps=9, max_iterations=40)),
    ("cw-adv_lib", CW(steps=40), "linf", adv_lib_cw("linf", max_iterations=40)),
    ("ead-foolbox", EAD(steps=40), "l1", foolbox("EADAttack", steps=40, binary_search_steps=9, decision_rule="L1")),
]


@pytest.mark.parametrize(
    ("attack", "norm", "theirs"), [pytest.param(*case[1:], id=f"{case[0]}-{case[2]}") for case in CASES]
)
def test_never_farther_than_a_peer(attack: Attack, norm: str, theirs: Points):
    """The median distance over all images, infinite where nothing fooled, is at most 2 % above the peer's."""
    net, x, y = trained()
    net = net.float().eval()
    try:
        right = net(x.float()).argmax(1) == y
        x, y = x.float()[right][:24], y[right][:24]
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            points = theirs(net, x, y).detach()
        threat = WIDE[norm]
        ours = attack(net, x, y, threat=threat).x
        assert min(float(points.min()), float(ours.min())) >= 0 and max(float(points.max()), float(ours.max())) <= 1
        medians = []
        for found in (ours, points):
            distance = threat.distance(x, found).masked_fill(net(found).argmax(1) == y, torch.inf)
            medians.append(float(distance.median()))
        print(f"median {norm} distance of {len(x)} images: holdfast {medians[0]:.4f}, peer {medians[1]:.4f}")
        assert medians[0] <= 1.02 * medians[1]
    finally:
        net.double()
