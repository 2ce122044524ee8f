"""Bounds against dense singular values, nets against their differences, certificates against attacks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.foundation.errors import BadData, BadModel, BadValue
from holdfast.nets.preact_resnet18 import PreActResNet18
from holdfast.nets.small_cnn import SmallCNN
from holdfast.nets.small_resnet import ResBlock, SmallResNet
from holdfast.nets.wide_resnet28_10 import WideResNet28x10
from holdfast.probes.lipschitz import certified_radii, lipschitz, slopes
from holdfast.probes.lipschitz_graph import lipschitz_bound
from holdfast.probes.operator_norm import operator_norm
from holdfast.probes.operator_norm_kinds import MODULES
from holdfast.probes.operator_norm_map import Exact
from holdfast.threats.l0 import L0
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

NETS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "small_cnn": lambda: (SmallCNN(size=8, width=4, hidden=12, mean=[0.1], std=[0.3]), (1, 8, 8)),
    "small_resnet": lambda: (SmallResNet(width=4, mean=[0.4] * 3, std=[0.2, 0.3, 0.25]), (3, 8, 8)),
    "preact_resnet18": lambda: (PreActResNet18(widths=(4, 6), blocks=(1, 2)), (3, 8, 8)),
    "wide_resnet28_10": lambda: (WideResNet28x10(depth=10, width=1), (3, 8, 8)),
    "branches": lambda: (Branches(), (2, 6, 6)),
}


class Branches(nn.Module):
    """What users write: functions, sizes, broadcasting, parts that are cut out and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 3, padding=1)
        self.right = nn.ConvTranspose2d(2, 3, 3, padding=1)
        self.gain = nn.Parameter(torch.tensor([2.0, -3.0, 0.5]).view(3, 1, 1))
        self.end = nn.Linear(5 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x) * self.gain, torch.tanh(self.right(x))[:, :2]], 1)
        joined = joined + F.silu(joined.mean(1, keepdim=True)) / 2
        pooled = F.max_pool2d(F.leaky_relu(joined, 0.1), 3, 2, 1)
        pooled += 0.5
        return self.end(pooled.view(x.size(0), -1))


def settled(net: nn.Module) -> nn.Module:
    """Batch norms as after training, with channels that differ."""
    torch.manual_seed(1)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            for values in (each.weight, each.bias, each.running_mean):
                assert values is not None
                nn.init.normal_(values)
            nn.init.uniform_(each.running_var, 0.2, 2.0)
    return net.eval()


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a layer without its constant."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    own = layer.double().eval()
    with torch.no_grad():
        return (own(units) - own(torch.zeros_like(units))).flatten(1).T


def check(layer: nn.Module, shape: tuple[int, ...], *, loose: float) -> tuple[float, float]:
    matrix = dense(layer, shape)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    found = operator_norm(layer, shape)
    assert found.lower <= true * (1 + 1e-12) and found.lower >= true * (1 - 1e-4)
    assert true <= found.upper <= true * loose
    rows = float(matrix.abs().sum(1).max())
    linf = operator_norm(layer, shape, norm="linf")
    assert linf.lower <= rows * (1 + 1e-12) <= linf.upper * (1 + 1e-12) and linf.upper <= rows * (1 + 1e-8)
    return true, found.upper


def test_convolutions_against_dense_matrices() -> None:
    draw = np.random.default_rng(0)
    torch.manual_seed(0)
    ratios = []
    for _ in range(40):
        groups = int(draw.choice([1, 1, 2]))
        inside, outside = (groups * int(draw.integers(1, 3)) for _ in range(2))
        kernel = tuple(int(draw.integers(1, 5)) for _ in range(2))
        dilation = tuple(int(draw.integers(1, 3)) for _ in range(2))
        padding = tuple(int(draw.integers(0, (k - 1) * d + 1)) for k, d in zip(kernel, dilation))
        stride = tuple(int(draw.integers(1, 4)) for _ in range(2))
        need = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding)]
        shape = (inside, *(int(draw.integers(least, least + 6)) for least in need))
        layer = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, groups)
        true, bound = check(layer, shape, loose=3.0)
        ratios.append(bound / true)
    assert np.median(ratios) < 1.3


def test_convolutions_of_other_shapes() -> None:
    torch.manual_seed(0)
    check(nn.Conv1d(2, 3, 4, stride=2, padding="valid"), (2, 9), loose=1.3)
    check(nn.Conv2d(2, 3, (5, 3), padding="same", dilation=(1, 2)), (2, 7, 6), loose=1.3)
    check(nn.Conv3d(1, 2, 2, padding=1), (1, 3, 4, 3), loose=1.5)
    check(nn.Conv2d(2, 2, 3, padding=2, padding_mode="reflect"), (2, 6, 6), loose=4.0)
    check(nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"), (2, 6, 6), loose=4.0)
    check(nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4, 5), loose=1.3)
    check(nn.ConvTranspose2d(4, 2, 3, stride=3, groups=2, dilation=2), (4, 3, 3), loose=1.5)
    check(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), (2, 6, 6), loose=1.3)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_bound_is_the_norm_on_a_circle(stride: int) -> None:
    """Also the factor of a stride: 1 / stride in two dimensions."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 5, stride=stride, padding=2, padding_mode="circular")
    check(layer, (2, 6, 6), loose=1 + 1e-8)


def test_a_circle_of_the_images_own_size_is_no_bound() -> None:
    layer = nn.Conv1d(1, 1, 5, padding=2, bias=False)
    layer.weight.data = torch.tensor([[[-1.0, 1.0, 0.0, 1.0, -1.0]]])
    true, bound = check(layer, (1, 5), loose=1.4)
    assert float(torch.fft.fft(layer.weight.data[0, 0]).abs().max()) < 0.8 * true <= 0.8 * bound


@pytest.mark.parametrize(
    ("layer", "shape", "norm"),
    [
        (nn.AvgPool2d(2), (2, 6, 6), 0.5),
        (nn.AdaptiveAvgPool2d(1), (2, 4, 6), 1 / math.sqrt(24)),
        (nn.ReflectionPad2d(1), (1, 4, 4), 2.0),
        (nn.ZeroPad2d(2), (1, 3, 3), 1.0),
        (nn.ConstantPad2d(1, 7.0), (1, 3, 3), 1.0),
        (nn.PixelShuffle(2), (4, 2, 2), 1.0),
        (nn.Flatten(), (2, 3, 3), 1.0),
        (nn.Linear(6, 4), (6,), None),
    ],
)
def test_other_linear_layers(layer: nn.Module, shape: tuple[int, ...], norm: float | None) -> None:
    _, bound = check(layer, shape, loose=1 + 1e-8)
    assert norm is None or bound == pytest.approx(norm)


def test_averages_that_overlap() -> None:
    check(nn.AvgPool2d(3, 2, 1), (1, 7, 7), loose=1.3)


@pytest.mark.parametrize(
    ("pool", "norm"),
    [
        (nn.MaxPool2d(2), 1.0),
        (nn.MaxPool2d(3, 2), 2.0),
        (nn.MaxPool2d(3, 1, 1), 3.0),
        (nn.MaxPool2d(2, 2, dilation=2), 2.0),
        (nn.MaxPool2d(2, 2, dilation=3), 1.0),
        (nn.MaxPool2d((3, 1), (2, 1), ceil_mode=True), math.sqrt(2)),
    ],
)
def test_max_pooling_stretches_where_windows_overlap(pool: nn.Module, norm: float) -> None:
    found = operator_norm(pool, (1, 9, 9))
    assert found.lower == found.upper == norm and operator_norm(pool, (1, 9, 9), norm="linf").upper == 1.0
    peaks = 0.01 * torch.eye(81).view(81, 1, 9, 9)
    reached = (pool(peaks) - pool(torch.zeros_like(peaks))).flatten(1).norm(dim=1).max() / 0.01
    assert reached == pytest.approx(norm)


def test_slopes_of_activations() -> None:
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    checked = 0
    for kind, rule in MODULES.items():
        layer = kind(2) if kind is nn.Softmax else kind() if not hasattr(kind, "__constants__") else None
        layer = {nn.GELU: nn.GELU("tanh"), nn.ELU: nn.ELU(1.5), nn.LeakyReLU: nn.LeakyReLU(1.2)}.get(kind, layer)
        if layer is None or isinstance(layer, nn.Softmax):
            continue
        found = rule(layer.double(), x)
        if isinstance(found, Exact):
            (slope,) = torch.autograd.grad(layer(x).sum(), x)
            assert found.l2 * (1 - 1e-4) <= float(slope.abs().max()) <= found.l2, kind
            checked += 1
    assert checked > 6


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_pair_of_images_is_stretched_further(name: str, norm: str) -> None:
    torch.manual_seed(0)
    net, shape = NETS[name]()
    net = settled(net).double()
    kind = "l2" if norm == "l2" else "linf"
    bound = lipschitz_bound(net, shape, norm=kind)
    order = 2 if norm == "l2" else torch.inf
    x = torch.randn(64, *shape, dtype=torch.float64)
    y = x + torch.randn_like(x) * torch.logspace(-4, 1, 64, dtype=torch.float64).view(-1, 1, 1, 1)
    with torch.no_grad():
        apart, moved = net(x) - net(y), (x - y).flatten(1).norm(p=order, dim=1)
    assert bool((apart.norm(p=order, dim=1) <= bound.total * moved).all())
    pairs = (apart[:, :, None] - apart[:, None]).abs()
    assert bool((pairs <= bound.pairs * moved.view(-1, 1, 1)).all())
    for layer in bound.layers:
        assert layer.lower <= layer.upper


class Around(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.inside(x)).flatten(1)


def test_branches_add_up_and_norms_fold() -> None:
    torch.manual_seed(0)
    block = settled(ResBlock(2, 3, stride=2)).double()
    found = lipschitz_bound(nn.Sequential(block, nn.Flatten()), (2, 6, 6)).total
    assert block.shortcut is not None
    pairs = [
        (nn.Sequential(block.conv1, block.bn1), (2, 6, 6)),
        (nn.Sequential(block.conv2, block.bn2), (3, 3, 3)),
        (block.shortcut, (2, 6, 6)),
    ]
    first, second, around = (float(torch.linalg.matrix_norm(dense(*each), 2)) for each in pairs)
    assert first * second + around <= found <= 1.3 * (first * second + around)
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    twice = lipschitz_bound(Around(conv), (1, 4, 4)).total
    assert twice == pytest.approx(1 + operator_norm(conv, (1, 4, 4)).upper)


def test_linear_nets_are_certified_to_the_very_distance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    x, y = torch.rand(20, 3, 2, 2), torch.arange(20) % 4
    weight, logits = net[1].weight.double(), net.double()(x.double())
    for norm, dual in (("l2", 2), ("linf", 1)):
        apart = (weight[y][:, None] - weight[None]).norm(p=dual, dim=2)
        distance = ((logits.gather(1, y[:, None]) - logits) / apart).nan_to_num(torch.inf).amin(1).clamp_min(0)
        bound = lipschitz_bound(net, (3, 2, 2), norm="l2" if norm == "l2" else "linf")
        assert torch.allclose(certified_radii(net, x, y, bound), distance, rtol=1e-6)
        assert torch.allclose(bound.pairs, (weight[:, None] - weight[None]).norm(p=dual, dim=2), rtol=1e-6)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A net that tells bright halves apart, and its images."""
    torch.manual_seed(0)
    x = torch.rand(200, 1, 6, 6)
    y = (x[..., :3].mean((1, 2, 3)) < x[..., 3:].mean((1, 2, 3))).long()
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9
    return net.eval(), x, y


@pytest.mark.parametrize("threat", [L2(0.5), Linf(0.1)])
def test_certificates_lie_below_attacks(trained: tuple[nn.Module, Tensor, Tensor], threat: L2 | Linf) -> None:
    net, x, y = trained
    found = lipschitz(net, x, y, threat, steps=10)
    fooled = torch.full((len(x),), torch.inf)
    at = x
    for _ in range(60):  # down the margin, as far as it takes
        pixels = at.clone().requires_grad_()
        logits = net(pixels)
        fooled = torch.where(logits.argmax(1) != y, torch.minimum(fooled, threat.distance(x, at)), fooled)
        margin = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
        (grad,) = torch.autograd.grad(margin.sum(), pixels)
        at = at - 0.02 * threat.steepest(grad) * (1 if threat.name == "l2" else 0.2)
    assert bool(torch.isfinite(fooled).all())
    radii = torch.from_numpy(found.radii)
    assert bool((radii <= fooled).all()) and bool((radii[fooled > 0] > 0).all())
    assert 1 <= found.ratio < 50 and found.lower <= found.upper
    again = slopes(net, x, y, threat, steps=10)
    assert bool((again.numpy() == found.slopes).all())
    at_images = slopes(net, x, y, threat, steps=1)
    assert bool((again >= at_images).all()) and bool((again > at_images).any())


def test_sentences_follow_from_the_numbers(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = trained
    far, near = (lipschitz(net, x, y, L2(eps), steps=2) for eps in (3.0, 0.02))
    assert far.says_nothing and far.verdict.startswith("says nothing: none of 200 images is certified at L2 3 (")
    held = int((near.radii >= near.useful).sum())
    assert 0 < held < 200 and not near.says_nothing and near.certified.value == held / 200
    assert near.verdict.startswith(f"{held} of 200 images are certified at L2 0.02 (median radius")
    least = lipschitz(net, x, y, Linf(0.0), steps=2)
    assert least.useful == 0.5 / 255 and "rounding to 8 bits" in least.verdict


def test_a_net_that_never_changes_its_mind() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    net[1].bias.data = torch.tensor([1.0, 0.0])
    found = lipschitz(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), L2(0.5), steps=2)
    assert found.radii.tolist() == [math.inf, 0.0] and found.total == 0


class Custom(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(Step(forward)))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Step(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


def overwritten(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    x.mul_(5)
    return flat.view(-1, 2, 2, 2)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda x: x * torch.sigmoid(x), "body.1.0.mul (mul)"),
        (lambda x: x**2, "pow"),
        (lambda x: 1 / x, "truediv"),
        (lambda x: F.dropout(x, 0.5), "body.1.0.dropout: F.dropout draws"),
        (lambda x: x if x.sum() > 0 else -x, "body.1.0 (Step) cannot be traced"),
        (overwritten, "mul_) writes over"),
        (lambda x: x * torch.rand(1), "answers differently"),
        (lambda x: F.conv2d(x, x[:, :1].transpose(0, 1)[:1].repeat(2, 2, 1, 1)), "conv2d"),
    ],
)
def test_functions_without_a_bound_are_refused_by_name(step: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(BadModel) as error:
        lipschitz_bound(Custom(step), (1, 4, 4))
    assert said in error.value.message and error.value.hint


def test_layers_without_a_bound_are_refused_by_name() -> None:
    unknown = nn.Sequential(nn.Flatten(), nn.Sequential(nn.LayerNorm(4)), nn.Linear(4, 2))
    with pytest.raises(BadModel, match=r"1\.0 \(LayerNorm\)"):
        lipschitz_bound(unknown, (1, 2, 2))
    hooked = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    hooked[1].register_forward_hook(lambda layer, given, out: 2 * out)
    with pytest.raises(BadModel, match=r"1 \(Linear\)"):
        lipschitz_bound(hooked, (1, 2, 2))
    with pytest.raises(BadModel, match=r"^0: .* running statistics"):
        lipschitz_bound(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()), (1, 2, 2))
    with pytest.raises(BadModel, match="GroupNorm"):
        operator_norm(nn.GroupNorm(1, 2), (2, 3, 3))
    with pytest.raises(BadModel, match=r"\(N, K\)"):
        lipschitz_bound(nn.Sequential(nn.ReLU()), (1, 2, 2))


def test_a_layer_of_the_users_own_is_looked_into() -> None:
    class Centred(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, 3 * (self.weight - self.weight.mean()), self.bias, self.stride, self.padding)

    torch.manual_seed(0)
    own, plain = Centred(1, 2, 3), nn.Conv2d(1, 2, 3)
    plain.weight.data = 3 * (own.weight - own.weight.mean()).detach()
    bounds = [lipschitz_bound(nn.Sequential(each, nn.Flatten()), (1, 4, 4)).total for each in (own, plain)]
    assert bounds[0] == pytest.approx(bounds[1])


def test_the_model_stays_as_it_was() -> None:
    net = NETS["small_resnet"]()[0].train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, state = torch.rand(2, 3, 8, 8), torch.get_rng_state()
    lipschitz(net, x, torch.tensor([0, 1]), L2(0.5), steps=2)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(each.training for each in net.modules()) and all(each.requires_grad for each in net.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_asked() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(BadValue, match="l0"):
        lipschitz(net, torch.rand(1, 1, 2, 2), torch.tensor([0]), L0(2))
    with pytest.raises(BadData):
        lipschitz(net, torch.rand(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), L2(0.5))
