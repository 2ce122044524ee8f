"""On a linear two-class model the worst point is known: the loss rises by eps times the dual norm of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.attacks.apgd import APGD
from holdfast.attacks.bim import BIM
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.mim import MIM
from holdfast.attacks.pgd import PGD
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

SETS = [(Linf(0.1), 1), (L2(0.25), 2), (L1(0.25), torch.inf)]
ATTACKS = [FGSM, BIM, MIM, PGD, APGD]


def linear(bias: float, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model, its weight vector, 24 grey images far from the box, and the logit of the wrong class on each."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double()
    with torch.no_grad():
        net[1].weight[0], net[1].weight[1] = -weight / 2, weight / 2
    x = 0.45 + 0.1 * torch.rand(24, 3, 4, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[1].bias[:] = torch.tensor([0.0, float(bias - (x.flatten(1) @ weight).mean())])
    net, x = net.to(dtype), x.to(dtype)
    return net, weight, x, (net(x)[:, 1] - net(x)[:, 0]).detach()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize(("threat", "dual"), SETS, ids=["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_the_optimum_is_reached_and_the_verdict_is_exact(kind, threat, dual, loss, dtype):
    # From a random point of the L2 sphere the angle to the optimum shrinks by 1 / (1 + step / eps) a step: PGD's default
    # of 2.5 eps in all steps together ends 0.5 % short, at any number of steps.
    attack = PGD(loss=loss, step_size=threat.eps) if kind is PGD else kind(loss=loss)
    # Published APGD changes the k values with the largest gradients by the same amount, and k stays at 2 once two values
    # are left: it cannot move what the smaller one holds to the larger one.
    short = 0.15 if kind is APGD and isinstance(threat, L1) else 1e-4
    # Out of reach: no sample falls, every search goes to its end and must be at the optimum.
    _, weight, _, _ = linear(0.0, dtype)
    gain = threat.eps * float(weight.norm(p=dual))
    net, weight, x, logit = linear(-2 * gain - 1, dtype)
    none = torch.zeros(len(x), dtype=torch.int64)
    found = attack(net, x, none, threat=threat)
    assert not found.fooled.any()
    risen = net(found.x).diff(dim=1)[:, 0].detach() - logit
    assert (risen >= (1 - short) * gain).all() and (risen <= (1 + 1e-4) * gain).all()
    torch.testing.assert_close(-found.margin, logit + risen, rtol=1e-4, atol=1e-5)
    # Half of them within reach: robust exactly where the margin exceeds eps times the dual norm.
    net, weight, x, logit = linear(-gain, dtype)
    assert (logit < 0).any()
    found = attack(net, x, none, threat=threat)
    ahead = logit + gain
    assert torch.equal(found.fooled[ahead < 0], (logit > 0)[ahead < 0]) and found.fooled[ahead > short * gain].all()
    assert (ahead < 0).sum() >= 4 and (ahead > short * gain).sum() >= 4
