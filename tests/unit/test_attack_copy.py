import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.nets.preact_resnet18 import PreActResNet18
from holdfast.nets.small_cnn import SmallCNN
from holdfast.nets.small_resnet import SmallResNet
from holdfast.nets.wide_resnet28_10 import WideResNet28x10
from holdfast.training.attack_copy import AttackCopy

IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(12) % 5


def built(build, seed=0):
    with rng_kept():
        torch.manual_seed(seed)
        return build().train()


def learned(net, steps=3, x=IMAGES):
    """The net after a few steps, which change weights and running statistics."""
    optimiser = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=0.02, momentum=0.9)
    with rng_kept():
        torch.manual_seed(7)
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(net.train()(x), LABELS).backward()
            optimiser.step()
    return net


def answers(classifier, x=IMAGES):
    at = x.clone().requires_grad_()
    logits = classifier(at)
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, LABELS, reduction="sum"), at)[0]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(answers(one), answers(other)))


class TwoHeads(nn.Module):
    """Layers used twice, a batch norm that follows none, a tied weight, dropout, a buffer that is no running statistic."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.shared = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.norm = nn.BatchNorm2d(6)
        self.one, self.two = nn.Linear(6, 5), nn.Linear(6, 5)
        self.two.weight = self.one.weight
        self.register_buffer("seen", torch.ones(()))

    def forward(self, x):
        if self.training:
            self.seen.mul_(1.1)
        x = F.relu(self.first(x))
        x = F.relu(self.shared(self.shared(x)))
        x = F.dropout(self.norm(x).mean((2, 3)), 0.5, self.training)
        return self.seen * self.one(x) + self.two(x)


class Branching(SmallResNet):
    """Cannot be traced."""

    def forward(self, images):
        return super().forward(images) * (1.0 if float(images.mean()) > 0 else -1.0)


def spectral():
    net = SmallResNet(width=4, classes=5)
    nn.utils.parametrizations.spectral_norm(net.stages[0].conv1)
    return net


def hooked():
    net = SmallResNet(width=4, classes=5)
    net.conv.register_forward_hook(lambda module, given, out: out * 2)
    return net


NETS = {
    "small_cnn": (lambda: SmallCNN(channels=3, classes=5, size=16, width=4, hidden=8), 0),
    "small_resnet": (lambda: SmallResNet(width=4, classes=5), 9),
    "preact_resnet18": (lambda: PreActResNet18(classes=5, widths=(4, 8), blocks=(1, 1)), 2),
    "wide_resnet28_10": (lambda: WideResNet28x10(classes=5, depth=10, width=1), 3),
    "shared": (TwoHeads, 1),
    "spectral": (spectral, 8),
    "hooked": (hooked, 0),
    "untraceable": (lambda: Branching(width=4, classes=5), 0),
    "channels-last": (lambda: SmallResNet(width=4, classes=5).to(memory_format=torch.channels_last), 9),
}


@pytest.mark.parametrize("name", NETS)
def test_the_copy_follows_the_net(name):
    build, folds = NETS[name]
    net = built(build)
    attack_copy = AttackCopy(net, IMAGES)
    assert attack_copy.folded == folds
    before = answers(attack_copy.refreshed())
    learned(net)
    at = attack_copy.refreshed()
    assert not any(each.requires_grad for each in at.parameters()) and not at.training
    given = answers(at)
    with frozen(net):
        wanted = answers(net)
    for one, other, old in zip(given, wanted, before):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
        assert not torch.allclose(one, old, rtol=1e-3)
    assert attack_copy.difference(IMAGES) <= attack_copy.tolerance == 1e-4


@pytest.mark.parametrize("name", NETS)
def test_a_fresh_copy_and_one_renewed_at_every_step_have_the_same_bits(name):
    net = built(NETS[name][0])
    old = AttackCopy(net, IMAGES)
    for _ in range(3):
        learned(net, steps=1)
        old.refreshed()
        answers(old.refreshed())
    resumed = built(NETS[name][0])
    fresh = AttackCopy(resumed, IMAGES)  # as a run does that goes on: before the weights are loaded
    resumed.load_state_dict(copy.deepcopy(net.state_dict()))
    assert fresh.folded == old.folded and same(fresh.refreshed(), old.refreshed())


def test_the_net_is_left_alone():
    net = learned(built(NETS["small_resnet"][0]))
    net.bn.eval()
    net.linear.bias.requires_grad_(False)
    state = copy.deepcopy(net.state_dict())
    flags = [each.training for each in net.modules()], [each.requires_grad for each in net.parameters()]
    rng = torch.get_rng_state()
    attack_copy = AttackCopy(net, IMAGES)
    answers(attack_copy.refreshed())
    attack_copy.difference(IMAGES)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert flags == ([each.training for each in net.modules()], [each.requires_grad for each in net.parameters()])
    assert torch.equal(rng, torch.get_rng_state())


def test_float64_folds_to_its_own_tolerance():
    net = built(NETS["small_resnet"][0]).double()
    x = IMAGES.double()
    attack_copy = AttackCopy(net, x)
    learned(net, x=x)
    assert attack_copy.folded == 9 and attack_copy.difference(x) <= attack_copy.tolerance == 1e-10


class Tempered(SmallResNet):
    temperature = 1.0

    def forward(self, images):
        return super().forward(images) / self.temperature


def test_what_is_neither_parameter_nor_buffer_shows_as_a_difference():
    net = built(lambda: Tempered(width=4, classes=5))
    attack_copy = AttackCopy(net, IMAGES)
    assert attack_copy.difference(IMAGES) <= attack_copy.tolerance
    net.temperature = 2.0
    assert attack_copy.difference(IMAGES) > 0.1


def test_weights_that_are_no_numbers_are_an_infinite_difference():
    net = built(NETS["small_resnet"][0])
    attack_copy = AttackCopy(net, IMAGES)
    net.linear.bias.data[0] = torch.nan
    assert attack_copy.difference(IMAGES) == float("inf")


class NoCopy(SmallCNN):
    def __deepcopy__(self, memo):
        raise RuntimeError("holds a lock")


def test_what_cannot_be_copied_is_given_as_it_is():
    net = built(lambda: NoCopy(channels=3, size=16, width=2, hidden=4))
    attack_copy = AttackCopy(net, IMAGES)
    assert attack_copy.refreshed() is net and attack_copy.folded == 0 and "holds a lock" in attack_copy.reason
    assert attack_copy.difference(IMAGES) == 0


def test_images_of_one_channel_and_an_empty_sample():
    net = built(lambda: SmallResNet(channels=1, width=4, classes=5))
    x = IMAGES[:, :1]
    assert AttackCopy(net, x).folded == 9
    plain = AttackCopy(net, x[:0])
    assert plain.folded == 0 and "no images" in plain.reason
    learned(net, x=x)
    assert plain.difference(x) <= plain.tolerance


def test_a_copy_in_half_precision_keeps_the_types_and_follows():
    net = built(NETS["small_resnet"][0])
    half = AttackCopy(net, IMAGES, dtype=torch.bfloat16)
    assert (half.dtype, half.folded, half.reason, half.tolerance) == (torch.bfloat16, 9, "", 5e-2)
    learned(net)
    logits, grad = answers(half.refreshed())
    exact = AttackCopy(net, IMAGES)
    wanted = answers(exact.refreshed())
    assert logits.dtype == grad.dtype == torch.float32 and exact.dtype == torch.float32
    assert 1e-4 < half.difference(IMAGES) <= half.tolerance
    assert float((grad.sign() == wanted[1].sign()).float().mean()) > 0.8
    fresh = AttackCopy(net, IMAGES, dtype=torch.bfloat16)
    assert same(fresh.refreshed(), half.refreshed())


class OwnType(SmallCNN):
    def forward(self, images):
        return self.head(self.features(images.float()))


class Unstable(SmallCNN):
    """Its logits hang on the last bits of the images."""

    def forward(self, images):
        return super().forward(images) + torch.sin(1e4 * images.mean((1, 2, 3)))[:, None] * torch.eye(5)[0]


@pytest.mark.parametrize("kind, why", [(OwnType, "raises"), (Unstable, "changed the answers")])
def test_a_net_that_does_not_bear_half_precision_keeps_its_own(kind, why):
    net = built(lambda: kind(channels=3, classes=5, size=16, width=2, hidden=4))
    found = AttackCopy(net, IMAGES, dtype=torch.bfloat16)
    assert found.dtype == torch.float32 and why in found.reason and found.difference(IMAGES) <= found.tolerance == 1e-4
