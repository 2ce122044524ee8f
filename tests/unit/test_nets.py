import pytest
import torch

from holdfast.ascent.search_copy import search_copy
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue
from holdfast.nets.normalise import Normalise
from holdfast.nets.preact_resnet18 import PreActResNet18
from holdfast.nets.small_cnn import SmallCNN
from holdfast.nets.small_resnet import SmallResNet
from holdfast.nets.wide_resnet28_10 import WideResNet28x10

SMALL = {
    "small_cnn": {"width": 4, "hidden": 8},
    "small_resnet": {"width": 4},
    "preact_resnet18": {"widths": (4, 8), "blocks": (1, 1)},
    "wide_resnet28_10": {"depth": 10, "width": 1},
    "bottleneck_resnet50": {"widths": (4, 8), "blocks": (2, 1)},
}


def test_every_net_is_registered_and_nothing_else():
    assert registry.names("net") == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("channels", [1, 3])
def test_images_give_logits(name, channels):
    net = registry.load("net", name)(channels=channels, classes=7, **SMALL[name]).eval()
    x = torch.rand(2, channels, 32, 32, requires_grad=True)
    logits = net(x)
    assert logits.shape == (2, 7)
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_normalisation_inside_equals_one_in_front(name):
    build = registry.load("net", name)
    inside = build(channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), **SMALL[name]).eval()
    bare = build(channels=3, **SMALL[name]).eval()
    bare.load_state_dict({key: value for key, value in inside.state_dict().items() if "normalise" not in key})
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(inside(x), bare(Normalise((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))(x)))


@pytest.mark.parametrize("size", [28, 29, 32, 64])
def test_small_cnn_takes_its_size(size):
    assert SmallCNN(size=size, width=2, hidden=4)(torch.rand(1, 1, size, size)).shape == (1, 10)


def test_every_norm_of_small_resnet_follows_a_convolution_and_folds():
    net = SmallResNet(width=4, blocks=2).eval()
    norms = sum(isinstance(each, torch.nn.BatchNorm2d) for each in net.modules())
    assert search_copy(net, torch.rand(4, 3, 16, 16)).folded == norms == 15


def test_the_published_sizes():
    with torch.device("meta"):
        millions = {
            "resnet-20": sum(each.numel() for each in SmallResNet(blocks=3).parameters()) / 1e6,
            "preact": sum(each.numel() for each in PreActResNet18().parameters()) / 1e6,
            "wide": sum(each.numel() for each in WideResNet28x10().parameters()) / 1e6,
        }
    assert millions["resnet-20"] == pytest.approx(0.27, abs=0.005)  # He et al. 2016, table 6
    assert millions["preact"] == pytest.approx(11.17, abs=0.01)
    assert millions["wide"] == pytest.approx(36.48, abs=0.01)


@pytest.mark.parametrize("mean, std", [((), ()), ((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((float("nan"),), (1.0,))])
def test_a_normalisation_that_is_none_is_refused(mean, std):
    with pytest.raises(BadValue):
        Normalise(mean, std)


def test_impossible_options_are_refused():
    with pytest.raises(BadValue):
        WideResNet28x10(depth=27)
    with pytest.raises(BadValue):
        SmallCNN(size=4)
    with pytest.raises(BadValue):
        SmallCNN(mean=(0.5,))
