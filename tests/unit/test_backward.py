"""The true forward with another backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.ascent.backward import Backward, Through
from holdfast.ascent.views import Expectation, Logarithm
from holdfast.foundation.errors import BadValue, UnknownName


class Everything(nn.Module):
    """Every function that has a rule, as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.head = nn.Linear(6 * 3 * 2, 4)
        self.six = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        z = self.pool(self.act(self.conv((x * 4).round() / 4)))
        z = F.hardtanh(self.six(F.leaky_relu(z - 0.1, 0.1)), -1, 2).clamp(min=0.01).relu()
        z = F.max_pool2d(z, 2, ceil_mode=True) + torch.sign(z.mean((2, 3), keepdim=True)) * 0.1
        return self.head(F.interpolate(z, (3, 2)).flatten(1))


def differentiated(classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = classifier(x)
    (grad,) = torch.autograd.grad(logits[:, 0].sum(), x)
    return logits.detach(), grad


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Everything().double().eval()


@pytest.fixture
def x() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.rand(5, 2, 6, 5, dtype=torch.float64)


@pytest.mark.parametrize("rule", [Backward(tau=0.3), Backward(slope=0.05)], ids=["tau", "slope"])
def test_the_forward_is_the_true_one_to_the_last_bit(rule, net, x):
    soft = Through(net, rule)
    logits, grad = differentiated(soft, x)
    plain, true = differentiated(net, x)
    assert torch.equal(logits, plain) and torch.equal(soft(x), plain)
    assert (true == 0).all(), "rounding stops every gradient"
    assert (grad != 0).flatten(1).any(1).all()
    assert torch.equal(differentiated(net, x)[1], true)  # nothing is left behind


@pytest.mark.parametrize("rule", [Backward(tau=0.3), Backward(slope=0.05)], ids=["tau", "slope"])
def test_rows_do_not_depend_on_one_another(rule, net, x):
    together = differentiated(Through(net, rule), x)[1]
    alone = torch.cat([differentiated(Through(net, rule), row[None])[1] for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


def test_the_derivative_of_a_relu():
    z = torch.tensor([[-1.0, 0.5, 2.0]], dtype=torch.float64)
    rms = z.square().mean().sqrt()
    _, soft = differentiated(Through(lambda x: F.relu(x).sum(1, keepdim=True), Backward(tau=0.3)), z)
    torch.testing.assert_close(soft, torch.sigmoid(z / (0.3 * rms)))
    _, leaky = differentiated(Through(lambda x: F.relu(x).sum(1, keepdim=True), Backward(slope=0.05)), z)
    assert leaky.tolist() == [[0.05, 1.0, 1.0]]
    _, six = differentiated(Through(lambda x: F.relu6(x * 4).sum(1, keepdim=True), Backward(slope=0.1)), z)
    torch.testing.assert_close(six, torch.tensor([[0.4, 4.0, 0.4]], dtype=torch.float64))


def test_max_pool_shares_its_gradient_by_a_softmax():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).view(1, 1, 2, 2)
    _, grad = differentiated(Through(lambda x: F.max_pool2d(x, 2).flatten(1), Backward(tau=0.5)), x)
    weight = (x.flatten() / (0.5 * x.square().mean().sqrt())).softmax(0)
    torch.testing.assert_close(grad.flatten(), weight)


def test_straight_through_a_named_layer(x):
    class Flat(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z > 0.5).to(z.dtype)

    net = nn.Sequential(Flat(), nn.Flatten(), nn.Linear(60, 3)).double()
    logits, grad = differentiated(Through(net, Backward(straight_through=("0",))), x)
    assert torch.equal(logits, net(x))
    torch.testing.assert_close(grad[0].flatten(), net[2].weight[0].detach())
    with pytest.raises(UnknownName, match="layer"):
        Through(net, Backward(straight_through=("7",)))
    with pytest.raises(BadValue, match="keep the shape"):
        Through(net, Backward(straight_through=("1",)))(x.clone().requires_grad_())
    with pytest.raises(BadValue, match=r"no nn\.Module"):
        Through(lambda x: x, Backward(straight_through=("0",)))
    assert not any(each._forward_hooks for each in net.modules())


@pytest.mark.parametrize("given", [{}, {"tau": 0.3, "slope": 0.1}, {"tau": 0}, {"slope": -1}], ids=str)
def test_a_rule_that_says_nothing_or_too_much(given):
    with pytest.raises(BadValue):
        Backward(**given)


def test_the_logarithm_of_probabilities_has_gradients_where_they_are_flat():
    logits = torch.tensor([[60.0, 0.0, -40.0]])
    flat = differentiated(lambda x: x.softmax(1), logits)[1]
    steep = differentiated(Logarithm(lambda x: x.softmax(1)), logits)[1]
    assert flat.abs().max() < 1e-20 and torch.equal(
        Logarithm(lambda x: x.softmax(1))(logits).argmax(1), logits.argmax(1)
    )
    assert torch.isfinite(Logarithm(lambda x: x.softmax(1))(10 * logits)).all() and torch.isfinite(steep).all()


def test_expectation_is_the_mean_over_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy = Expectation(lambda x: x + torch.randn_like(x), 4000)
        x = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
        assert (noisy(x) - x).abs().max() < 0.1
        _, grad = differentiated(noisy, x)
    torch.testing.assert_close(grad, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
