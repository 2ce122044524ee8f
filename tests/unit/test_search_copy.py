import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.ascent.few_channels import FewChannels
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.search_copy import search_copy
from holdfast.nets.preact_resnet18 import PreActResNet18
from holdfast.nets.wide_resnet28_10 import WideResNet28x10


def shaken(module):
    """Batch norms with statistics and weights that are not those of a fresh net."""
    generator = torch.Generator().manual_seed(1)
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)):
            size = (each.num_features,)
            if each.running_mean is not None:
                each.running_mean.copy_(torch.randn(size, generator=generator))
                each.running_var.copy_(torch.rand(size, generator=generator) + 0.2)
            if each.affine:
                each.weight.data.copy_(torch.randn(size, generator=generator))
                each.bias.data.copy_(torch.randn(size, generator=generator))
    return module


def snapshot(module):
    return (
        {name: value.clone() for name, value in module.state_dict().items()},
        [each.training for each in module.modules()],
        [(each.requires_grad, None if each.grad is None else each.grad.clone()) for each in module.parameters()],
        [dict(each._forward_hooks) for each in module.modules()],
    )


def assert_untouched(module, before):
    after = snapshot(module)
    assert all(torch.equal(after[0][name], value) for name, value in before[0].items())
    assert after[1] == before[1] and after[3] == before[3]
    for (one, grad), (other, kept) in zip(after[2], before[2]):
        assert one == other and (grad is kept is None or torch.equal(grad, kept))


def conv_net(dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8, affine=False), nn.Flatten(),
        nn.Linear(8 * 25, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    return shaken(net).to(dtype)


IMAGES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def reference(module, x):
    with frozen(module), torch.no_grad():
        return module(x)


def test_everything_folds_and_the_module_is_untouched():
    net = conv_net().train()
    net[3].eval()
    net[0].weight.requires_grad_(False)
    net(IMAGES).sum().backward()
    before, rng = snapshot(net), torch.get_rng_state()
    result = search_copy(net, IMAGES)
    assert_untouched(net, before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (result.folded, result.channels_last, result.reason) == (4, True, "")
    assert 0 <= result.exact <= 1e-4
    assert isinstance(result.module, nn.Module)
    assert not any(isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)) for each in result.module.modules())
    assert not result.module.training and not any(each.requires_grad for each in result.module.parameters())
    torch.testing.assert_close(result.module(IMAGES), reference(net, IMAGES), rtol=1e-4, atol=1e-4)


def test_float64_folds_to_its_own_tolerance():
    result = search_copy(conv_net(torch.float64), IMAGES.double())
    assert result.folded == 4 and not result.channels_last and result.exact <= 1e-10


@pytest.mark.parametrize("build", [
    lambda: PreActResNet18(widths=(4, 8), blocks=(1, 1)), lambda: WideResNet28x10(depth=10, width=1),
])  # fmt: skip
def test_the_nets_of_the_house_fold_one_norm_per_block(build):
    net = shaken(build())
    result = search_copy(net, IMAGES)
    assert result.folded == sum(type(each).__name__.endswith("Block") for each in net.modules())
    torch.testing.assert_close(result.module(IMAGES), reference(net, IMAGES), rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3]),
    bias=st.booleans(),
    affine=st.booleans(),
    mode=st.sampled_from(["zeros", "reflect"]),
)
def test_random_nets_fold_exactly(seed, widths, kernel, bias, affine, mode):
    with rng_kept():
        torch.manual_seed(seed)
        layers, channels = [], 2
        for width in widths:
            conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=bias, padding_mode=mode)
            layers += [conv, nn.BatchNorm2d(width, affine=affine), nn.ReLU()]
            channels = width
        net = shaken(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 36, 3))).double()
        x = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    result = search_copy(net, x)
    assert result.folded == len(widths)
    torch.testing.assert_close(result.module(x), reference(net, x), rtol=1e-9, atol=1e-9)


class Shared(nn.Module):
    """The convolution's output, or the convolution itself, is used twice."""

    def __init__(self, twice):
        super().__init__()
        self.conv, self.bn, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), twice

    def forward(self, x):
        out = self.conv(x)
        out = self.conv(self.bn(out)) if self.twice else self.bn(out) + out
        return out.flatten(1)[:, :4]


class ReadsWeight(Shared):
    def forward(self, x):
        return (self.bn(self.conv(x)) * self.conv.weight.sum()).flatten(1)[:, :4]


@pytest.mark.parametrize("net", [Shared(True), Shared(False), ReadsWeight(False)])
def test_a_layer_with_another_use_is_not_folded(net):
    result = search_copy(shaken(net), IMAGES)
    assert result.folded == 0
    torch.testing.assert_close(result.module(IMAGES), reference(net, IMAGES))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        out = self.bn(self.conv(x))
        return (out if out.mean() > 0 else -out).flatten(1)[:, :4]


class NoGrad(Branches):
    def forward(self, x):
        with torch.no_grad():
            hidden = self.bn(self.conv(x))
        return hidden.flatten(1)[:, :4] + x.flatten(1)[:, :4]


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class StraightThrough(Branches):
    def forward(self, x):
        return self.bn(self.conv(Straight.apply(x))).flatten(1)[:, :4]


class Noisy(Branches):
    def __init__(self, source):
        super().__init__()
        self.source = source

    def forward(self, x):
        noise = {
            "torch": lambda: torch.randn(3, 14, 14),
            "like": lambda: torch.randn_like(self.conv(x)),
            "python": lambda: random.random(),
            "numpy": lambda: float(np.random.rand()),  # noqa: NPY002
        }[self.source]()
        return (self.bn(self.conv(x)) + noise).flatten(1)[:, :4]


@pytest.mark.parametrize("net", [Branches(), NoGrad(), StraightThrough()])
def test_what_tracing_would_change_is_not_traced(net):
    shaken(net)
    result = search_copy(net, IMAGES)
    assert result.folded == 0 and result.reason and result.module is not net
    x, again = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    with frozen(net):
        wanted = torch.autograd.grad(net(x).square().sum(), x)[0]
    given_ = torch.autograd.grad(result.module(again).square().sum(), again)[0]
    # Close, not equal: the first convolution's gradient comes from another kernel. A traced copy would be far off.
    torch.testing.assert_close(given_, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("source", ["torch", "like", "python", "numpy"])
def test_a_randomised_model_stays_random_and_draws_nothing(source):
    net = Noisy(source)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    result = search_copy(net, IMAGES)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert result.folded == 0 and "differ" in result.reason
    with rng_kept():
        assert not torch.equal(result.module(IMAGES), result.module(IMAGES))


def test_dropout_is_off_in_the_copy_of_a_training_module():
    net = nn.Sequential(nn.Dropout(0.5), *conv_net()).train()
    result = search_copy(net, IMAGES)
    assert result.folded == 4 and net.training


def test_hooks_and_parametrisations_keep_their_meaning():
    hooked = conv_net()
    handle = hooked[0].register_forward_hook(lambda module, given, out: out * 2)
    result = search_copy(hooked, IMAGES)
    assert result.folded == 0 and "hooks" in result.reason
    torch.testing.assert_close(result.module(IMAGES), reference(hooked, IMAGES), rtol=1e-4, atol=1e-4)
    handle.remove()
    normed = conv_net()
    nn.utils.parametrizations.weight_norm(normed[0])
    result = search_copy(normed, IMAGES)
    assert result.folded == 3  # all but the parametrised one
    torch.testing.assert_close(result.module(IMAGES), reference(normed, IMAGES), rtol=1e-4, atol=1e-4)


def test_batch_statistics_are_not_folded():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    assert search_copy(net, IMAGES).folded == 0


class NoCopy(nn.Module):
    def forward(self, x):
        return x.flatten(1)

    def __deepcopy__(self, memo):
        raise RuntimeError("holds a lock")


def test_what_cannot_be_copied_or_compared_is_left_alone():
    function = lambda x: x.flatten(1)
    assert search_copy(function, IMAGES).module is function
    net = NoCopy()
    result = search_copy(net, IMAGES)
    assert result.module is net and "holds a lock" in result.reason and net.training
    assert "no images" in search_copy(conv_net(), IMAGES[:0]).reason
    assert "raises" in search_copy(conv_net(), torch.rand(2, 1, 16, 16)).reason
    assert "raises" in search_copy(conv_net().to("meta"), IMAGES).reason  # on another device


class Viewing(nn.Module):
    """``view`` refuses channels-last activations."""

    def __init__(self):
        super().__init__()
        self.layers = conv_net()[:8]

    def forward(self, x):
        out = self.layers(x)
        return out.view(len(out) if isinstance(out, torch.Tensor) else out.shape[0], -1)[:, :5]


def test_a_net_that_refuses_channels_last_is_folded_without():
    result = search_copy(Viewing(), IMAGES)
    assert (result.folded, result.channels_last) == (3, False) and "view" in result.reason


def test_the_same_copy_twice_gives_the_same_bits():
    net = conv_net()
    one, other = search_copy(net, IMAGES), search_copy(copy.deepcopy(net), IMAGES[:5])
    assert torch.equal(one.module(IMAGES), other.module(IMAGES))


def test_frozen_restores_every_flag_also_after_an_exception():
    net = conv_net().train()
    net[1].eval()
    net[3].weight.requires_grad_(False)
    net(IMAGES).sum().backward()
    before = snapshot(net)
    with frozen(net):
        assert not any(each.training for each in net.modules())
        assert not any(each.requires_grad for each in net.parameters())
    assert_untouched(net, before)
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert_untouched(net, before)
    with frozen(lambda x: x):
        pass


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (0, 2), "bias": False}]
)
def test_a_first_convolution_keeps_its_answers_and_its_input_gradient(channels, geometry):
    layer = nn.Conv2d(channels, 6, 3, **geometry).requires_grad_(False)
    assert FewChannels.fits(layer)
    x = torch.rand(5, channels, 11, 9, generator=torch.Generator().manual_seed(0))
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, given_ = layer(one), FewChannels(layer)(other)
    assert torch.equal(wanted, given_)
    upstream = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(given_, other, upstream)[0], torch.autograd.grad(wanted, one, upstream)[0]
    )


def test_only_plain_convolutions_of_few_channels_are_replaced():
    class Own(nn.Conv2d):
        pass

    for layer in (
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3).double(),
        Own(3, 4, 3),
    ):
        assert not FewChannels.fits(layer)
