"""The attacks made to transfer beside torchattacks' where it is installed: the same nets, images, steps and step size."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_apgd_reference import trained
from test_peers import peer
from torch import Tensor

from holdfast.ascent.attack import Attack
from holdfast.attacks.di import DI
from holdfast.attacks.mim import MIM
from holdfast.attacks.ni import NI
from holdfast.attacks.si import SI
from holdfast.attacks.ti import TI
from holdfast.attacks.vmi import VMI
from holdfast.audit.transfer import crafted
from holdfast.threats.linf import Linf

EPS, STEPS = 0.08, 10
PAIRS: list[tuple[Attack, str, dict]] = [
    (MIM(), "MIFGSM", {}),
    (NI(), "NIFGSM", {}),
    (SI(), "SINIFGSM", {}),
    (DI(), "DIFGSM", {"decay": 1.0}),
    (TI(probability=0.5), "TIFGSM", {"decay": 1.0, "len_kernel": 7}),
    (VMI(neighbours=5), "VMIFGSM", {"N": 5}),
    (VMI(neighbours=5, nesterov=True), "VNIFGSM", {"N": 5}),
]


@pytest.mark.parametrize(("ours", "name", "options"), PAIRS, ids=[name for _, name, _ in PAIRS])
def test_never_weaker_on_its_own_model(ours: Attack, name: str, options: dict):
    net, x, y = trained()
    net, x = net.float(), x.float()
    try:
        points = theirs(name, net, x, y, **options)
        fooled = net(points).argmax(1) != y
        found = ours(net, x, y, threat=Linf(EPS))
        assert (points - x).abs().max() <= EPS + 1e-6
        assert torch.equal(found.fooled, net(found.x).argmax(1) != y)
        print(f"fooled of {len(x)}: holdfast {int(found.fooled.sum())}, {name} {int(fooled.sum())}")
        assert int(found.fooled.sum()) >= int(fooled.sum())
    finally:
        net.double()


def test_the_momentum_is_theirs_to_the_last_step():
    """MIM draws nothing: crafted to the end, the points are the same."""
    net, x, y = trained()
    points = theirs("MIFGSM", net, x, y)
    right = net(points).argmax(1) != y  # where the last point fails, ours may keep an earlier one
    ours = crafted(MIM(), net, x, y, threat=Linf(EPS))
    torch.testing.assert_close(ours[right], points[right], rtol=0, atol=1e-6)


def theirs(name: str, net, x: Tensor, y: Tensor, **options) -> Tensor:
    attack = getattr(peer("torchattacks"), name)(net, eps=EPS, alpha=EPS / STEPS, steps=STEPS, **options)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return attack(x, y).detach()
