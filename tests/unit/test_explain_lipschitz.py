"""Stability: certificates stay below attacks, the analytic distance of a linear net, refusals, and the figures."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data.arrays import from_pair
from holdfast.explain.case import Case, Net
from holdfast.explain.contradictions import contradictions
from holdfast.explain.found import Distance
from holdfast.explain.questions.lipschitz import Stability
from holdfast.foundation.errors import BadValue
from holdfast.models.load import load
from holdfast.threats.l1 import L1
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

SHAPE = (1, 8, 8)
QUICK = Stability(steps=4, attack_steps=20)


def quiet(*_):
    pass


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3)
    ).eval()


def case(modules, threat, labels=None, n=6):
    """Images from the middle of the box, with the answers of the first module as their labels unless given."""
    images = (0.3 + 0.4 * np.random.default_rng(0).random((n, *SHAPE))).astype(np.float32)
    with torch.no_grad():
        labels = modules[0](torch.from_numpy(images)).argmax(1).numpy() if labels is None else labels
    roles = ["model", *["twin"] * (len(modules) - 1)]
    nets = tuple(
        Net(f"net {place}", load(each, shape=SHAPE), role)
        for place, (each, role) in enumerate(zip(modules, roles, strict=True))
    )
    return Case(nets, from_pair(images, labels, class_names=("a", "b", "c")), threat)


def values(found, kind, norm, name="net 0"):
    (fact,) = (each for each in found.distances if (each.kind, each.norm, each.net) == (kind, norm, name))
    return np.array([math.nan if value is None else value for value in fact.values])


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.3)], ids=["linf", "l2"])
def test_no_certificate_lies_above_an_attack(threat):
    found = QUICK.ask(case([net(0), net(1)], threat), quiet)
    assert not contradictions([found])
    assert {each.norm for each in found.distances} == {threat.name, "l2"}
    for norm in {threat.name, "l2"}:
        low, high = values(found, "certified", norm), values(found, "attack", norm)
        assert (low > 0).all() and (low < high).all()


def test_a_certificate_that_is_too_large_is_a_contradiction():
    found = QUICK.ask(case([net()], L2(0.3)), quiet)
    (low,) = (each for each in found.distances if each.kind == "certified")
    (high,) = (each for each in found.distances if each.kind == "attack")
    wrong = Distance(low.net, low.norm, "certified", low.by, low.ids, tuple(2 * value for value in high.values))
    found = type(found)(found.tables, found.sentences, distances=(wrong, high))
    assert len(contradictions([found])) == 1


def test_a_linear_net_has_its_analytic_distance():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, dtype=torch.float64))
    with torch.no_grad():
        linear[1].weight.mul_(0.2)
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.2 + 0.4
    labels = linear(images).argmax(1)
    source = from_pair(images.numpy(), labels.numpy(), class_names=("a", "b", "c"))
    asked = Case((Net("net 0", load(linear, shape=SHAPE)),), source, L2(0.3))
    found = Stability(steps=4, attack_steps=40).ask(asked, quiet)
    logits, weight = linear(images).detach(), linear[1].weight.detach()
    gaps = (logits.gather(1, labels[:, None]) - logits) / (weight[labels][:, None] - weight[None]).norm(dim=2)
    exact = gaps.scatter(1, labels[:, None], torch.inf).amin(1).numpy()
    assert values(found, "certified", "l2") == pytest.approx(exact, rel=1e-6)
    assert values(found, "attack", "l2") == pytest.approx(exact, rel=0.02)
    row = found.tables[0].rows[0]
    assert row[1] == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)), rel=1e-6)


def test_wrong_images_are_certified_at_zero_and_left_out_of_the_medians():
    found = QUICK.ask(case([net()], L2(0.3), labels=np.arange(6) % 3), quiet)
    low, high = values(found, "certified", "l2"), values(found, "attack", "l2")
    assert ((low == 0) == (high == 0)).all() and (low == 0).any()
    assert found.tables[0].rows[0][6].n == int((high > 0).sum())


class Scaled(nn.Module):
    def forward(self, x):
        return x * x.mean()


def test_a_layer_without_a_bound_is_named_and_the_other_nets_go_on():
    odd = nn.Sequential(Scaled(), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3))
    found = QUICK.ask(case([net(), odd], Linf(0.05)), quiet)
    kept, refused = found.tables[0].rows
    assert isinstance(kept[1], float) and "refused" in str(refused[1]) and refused[0] == "net 1"
    assert any(each.startswith("net 1: refused") for each in found.sentences)
    assert {each.net for each in found.distances} == {"net 0"} and len(QUICK.draw(found)) == 2


def test_a_plain_function_is_refused():
    found = QUICK.ask(case([net(), lambda x: x.flatten(1)[:, :3]], L2(0.3)), quiet)
    assert "plain function" in str(found.tables[0].rows[1][1])


def test_l1_is_not_available():
    found = QUICK.ask(case([net()], L1(1.0)), quiet)
    assert "not available" in found.sentences[0] and QUICK.draw(found) == () and not found.distances


def test_a_constant_net_is_a_breach():
    dead = net()
    with torch.no_grad():
        dead[5].weight.zero_()
    found = QUICK.ask(case([net(1), dead], L2(0.3), n=4), quiet)
    assert found.breaches == ("net 1: the gradient of the margin is zero on all 4 images",)
    assert all(figure.chart.to_dict() for figure in QUICK.draw(found))


def test_the_sentence_says_when_the_certificate_ranks_the_other_way_round():
    """The twin is the model with a detour that cancels: the same function, a larger bound, and so smaller radii."""
    first = net()
    detour = nn.Sequential(first, nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    mixing = torch.tensor([[1.0, 4, 0], [0, 1, 4], [0, 0, 1]])
    with torch.no_grad():
        detour[1].weight.copy_(mixing)
        detour[2].weight.copy_(0.5 * torch.linalg.inv(mixing))
    found = QUICK.ask(case([detour, first], L2(0.3), n=12), quiet)
    compared = [each for each in found.sentences if "times that of net 1" in each]
    assert len(compared) == 1 and "the attack does not tell the two apart" in compared[0]
    assert (values(found, "certified", "l2") < values(found, "certified", "l2", "net 1")).all()


def test_the_answer_is_deterministic_and_draws():
    asked = case([net(0), net(1)], Linf(0.05), n=4)
    found, again = (QUICK.ask(asked, quiet) for _ in range(2))
    assert found.sentences == again.sentences and found.distances == again.distances
    drawn = {figure.name: figure.chart.to_dict() for figure in QUICK.draw(found)}
    assert list(drawn) == ["layers", "brackets"] and all(drawn.values())
    assert [row[1] for row in found.tables[2].rows[:6]] == ["0", "1", "2", "3", "4", "5"]


def test_settings_are_checked():
    with pytest.raises(BadValue, match="attack_steps is 0"):
        Stability(attack_steps=0)
