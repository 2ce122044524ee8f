"""Can a number be believed? A zoo of models that look robust and are not, each flagged; honest nets, none flagged."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import holdfast
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.audit import checks
from holdfast.data.load import load as load_data
from holdfast.foundation.errors import BadModel
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.adversarial import Adversarial
from holdfast.objectives.standard import Standard
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe

N = 24


class Before(nn.Module):
    """A transformation in front of a net."""

    def __init__(self, net: nn.Module, change) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


class After(Before):
    """One behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x))


class WinnersTakeAll(nn.Module):
    """Keeps a tenth of a layer's values (Xiao et al., "Enhancing adversarial defense by k-WTA", ICLR 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def winners(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, WinnersTakeAll())
    return net


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    source = load_data("digits")
    batch = source.take(source.ids[:N])
    return torch.from_numpy(batch.images).float() / 255, torch.from_numpy(batch.labels).long()


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    """Two honest nets: one trained on clean images, one adversarially."""
    train = load_data("digits:train")
    recipes = {
        "plain": Recipe(Standard(), Linf(0.1), epochs=4, lr=5e-3, shift=1),
        "robust": Recipe(Adversarial(PGD(steps=3)), Linf(0.15), epochs=6, lr=5e-3, shift=1),
    }
    found = {}
    for name, recipe in recipes.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found[name] = SmallCNN(width=4)
        fit(found[name], train, recipe)
    return found


def told(model: nn.Module, images, eps: float = 0.1, plan: str = "fast") -> set[str]:
    """The names of the warnings of an audit."""
    return {warning.check for warning in holdfast.audit(model, images, threat=Linf(eps), plan=plan).warnings}


@pytest.mark.parametrize("name", ["plain", "robust"])
@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_no_honest_net_is_flagged(name, eps, nets, images):
    assert told(nets[name], images, eps) <= {"unsettled"}, "small n: a stage that ends with a few samples breaks some"


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_a_search_that_turns_to_and_fro_at_its_summit_is_no_sign(activation):
    """Of small nets a few steps find the worst corner; what gradients predict from there on is next to nothing."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8), torch.from_numpy(labels)
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.04)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[:1200]), y[:1200]).backward()
            optimiser.step()
        for eps in (2 / 255, 4 / 255, 8 / 255, 0.1, 0.3):
            assert [f.check for f in checks.probe(net, x[1200:], y[1200:], Linf(eps)).findings] == [], (seed, eps)


SPECIMENS = {
    "logits x 1000": (lambda net: After(net, lambda z: 1000 * z), "logit scale"),
    "probabilities": (lambda net: After(net, lambda z: (10 * z).softmax(1)), "probabilities"),
    "quantised input": (lambda net: Before(net, lambda x: (8 * x).round() / 8), "zero gradients"),
    "shattered gradients": (lambda net: Before(net, lambda x: x + 0.002 * torch.sin(3e4 * x)), "dishonest gradients"),
    "saturated sigmoid": (lambda net: Before(net, lambda x: torch.sigmoid(1000 * (x - 0.5))), "unbounded radius"),
    "k winners take all": (winners, "softened beats plain|black box beats white box"),
}


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_is_flagged(name, nets, images):
    make, wanted = SPECIMENS[name]
    count = 10 if "gradients" in wanted else N  # Square searches everyone there
    assert told(make(nets["robust"]), (images[0][:count], images[1][:count])) & set(wanted.split("|"))


def test_a_net_after_catastrophic_overfitting_is_flagged(images):
    """Trained by FGSM from the clean image: a single step hardly fools it, small steps fool it altogether."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCNN(width=16)
    recipe = Recipe(Adversarial(FGSM()), Linf(0.3), epochs=20, lr=5e-3, shift=0)
    fit(net, load_data("digits:train"), recipe)
    found = holdfast.audit(net.eval(), images, threat=Linf(0.3), plan="sweep")
    assert "single steps mislead" in {warning.check for warning in found.warnings}
    assert found.robust_accuracy < 0.1
    single = FGSM()(net, *images, threat=Linf(0.3))
    assert found.robust_accuracy < float((~single.fooled).double().mean()) - 0.4


def test_a_randomised_model_is_refused_and_sent_to_rand(nets, images):
    noisy = Before(nets["robust"], lambda x: x + 0.1 * torch.randn_like(x))
    with pytest.raises(BadModel, match="randomised") as caught:
        told(noisy, images)
    assert "rand" in caught.value.hint
    draws = torch.get_rng_state()
    found = [holdfast.audit(noisy, (images[0][:6], images[1][:6]), threat=Linf(0.1), plan="rand") for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), draws), "the global generator is left as it was"
    assert torch.equal(found[0].points, found[1].points) and found[0].summary.stages[0].forwards == 6 * 20
    assert "randomised" in {warning.check for warning in found[0].warnings}


def test_neither_scale_nor_softmax_changes_a_verdict(nets, images):
    plain = holdfast.audit(nets["robust"], images, threat=Linf(0.1))
    for change in (lambda z: 1000 * z, lambda z: (10 * z).softmax(1)):
        changed = holdfast.audit(After(nets["robust"], change), images, threat=Linf(0.1))
        assert int((changed.robust != plain.robust).sum()) <= 1
        assert changed.robust_accuracy <= plain.robust_accuracy + 1 / N


def test_a_model_that_changes_while_it_is_evaluated(nets, images):
    model = After(nets["robust"], lambda z: z)

    def learns(progress) -> None:
        if progress.stage == "soft":
            model.change = lambda z: z + torch.arange(10.0)

    found = holdfast.audit(model, images, threat=Linf(0.02), watch=learns)
    assert "model changes" in {warning.check for warning in found.warnings}


@pytest.mark.parametrize("threat", [Linf(0.1), L2(1.0)])
def test_a_linear_net_is_not_flagged(threat):
    """Its worst corner is reached at once: no further step reaches a larger loss, and nothing is masked."""
    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))
    x = 0.3 + 0.4 * torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def linear(x: Tensor) -> Tensor:
        z = x.flatten(1) @ weights
        return torch.stack([-z, z], 1)

    y = linear(x).argmax(1)
    assert checks.probe(linear, x, y, threat).findings == ()

    def misled(x: Tensor) -> Tensor:
        """The same values, with a gradient that points elsewhere, and always there."""
        return linear(x.detach()) + (x - x.detach()).flatten(1) @ torch.stack([weights.roll(1), -weights.roll(1)], 1)

    found = {finding.check for finding in checks.probe(misled, x, y, threat).findings}
    assert found & {"loss does not rise", "dishonest gradients"}


def test_single_steps_mislead():
    """A loss that falls after a full step and rises within it."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            at = (x.flatten(1).mean(1) - 0.5) / 0.1
            return torch.stack([torch.ones_like(at) * 0.5, torch.sin(at * torch.pi)], 1)

    x = torch.full((8, 1, 4, 4), 0.5)
    found = {
        finding.check for finding in checks.probe(Bent(), x, torch.zeros(8, dtype=torch.int64), Linf(0.1)).findings
    }
    assert "single steps mislead" in found


def test_one_step_beats_many():
    """A backward pass that points uphill near the image alone: a full step arrives, later ones turn back."""

    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return torch.where((x - 0.5).abs() > 0.05, -grad, grad)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            at = Masked.apply(x).flatten(1).mean(1) - 0.5
            return torch.stack([torch.full_like(at, 0.08), at], 1)

    x = torch.full((8, 1, 4, 4), 0.5)
    found = {finding.check for finding in checks.probe(Net(), x, torch.zeros(8, dtype=torch.int64), Linf(0.1)).findings}
    assert "one step beats many" in found


def test_noise_beats_search():
    """A net that any unevenness fools, and whose gradient points where there is none."""

    def model(x: Tensor) -> Tensor:
        uneven = (x - x.mean((1, 2, 3), keepdim=True)).square().mean((1, 2, 3)).detach()
        wrong = 1e-3 * x.mean((1, 2, 3)) + 1e4 * uneven - 1
        return torch.stack([torch.zeros_like(wrong), wrong], 1)

    grey, zeros = torch.full((8, 1, 6, 6), 0.5), torch.zeros(8, dtype=torch.int64)
    found = {finding.check: finding for finding in checks.probe(model, grey, zeros, Linf(0.1)).findings}
    assert "8 of 8 images" in found["noise beats search"].saw

    def honest(x: Tensor) -> Tensor:
        wrong = x.mean((1, 2, 3)) - 0.55
        return torch.stack([torch.zeros_like(wrong), wrong], 1)

    assert "noise beats search" not in {each.check for each in checks.probe(honest, grey, zeros, Linf(0.1)).findings}


def test_layers_without_a_derivative_are_named(nets, images):
    found = checks.probe(Before(nets["robust"], lambda x: (x * 8).floor() / 8), *images, Linf(0.1)).findings
    note = next(finding for finding in found if finding.check == "non-differentiable")
    assert note.level == "note" and "floor" in note.saw


def test_a_probe_costs_little_and_leaves_everything_as_it_was(nets, images):
    net = nets["robust"].train()
    draws = torch.get_rng_state()
    seen = checks.probe(net, *images, Linf(0.1))
    assert net.training and torch.equal(torch.get_rng_state(), draws)
    assert seen.forwards <= checks.IMAGES * 45 and seen.backwards <= checks.IMAGES * 45
    assert checks.probe(net.eval(), images[0][:0], images[1][:0], Linf(0.1)).findings == ()
    assert checks.probe(net, *images, Linf(0)).findings == ()
