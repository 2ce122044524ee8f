"""Batch norm by the test batch, and TENT, each against its plain form."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.defences.bn_adaptation import BNAdaptation
from holdfast.defences.tent import Tent
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models.model import fingerprint
from holdfast.nets.small_cnn import SmallCNN


def net(*, affine: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=affine), nn.ReLU(), nn.Flatten(),
            nn.Linear(6 * 36, 7), nn.BatchNorm1d(7, affine=affine), nn.Linear(7, 4),
        ).double()  # fmt: skip
        for _ in range(10):
            module(torch.rand(16, 3, 8, 8, dtype=torch.float64))
        for layer in (module[1], module[5]):
            if affine:
                nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return module.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.4 + 0.5


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("count", [1, 2, 11])
@pytest.mark.parametrize("prior", [0.5, 16, 1000])
@torch.no_grad()
def test_statistics_are_mixed_by_the_numbers_of_images(prior: float, count: int, affine: bool) -> None:
    module, x = net(affine=affine), images(count)
    found = BNAdaptation(prior).wrap(module)(x)
    for layer in module:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            flat = x.transpose(0, 1).flatten(1)
            mean = (prior * layer.running_mean + count * flat.mean(1)) / (prior + count)
            var = (prior * layer.running_var + count * flat.var(1, correction=0)) / (prior + count)
            x = F.batch_norm(x, mean, var, layer.weight, layer.bias, eps=layer.eps)
        else:
            x = layer(x)
    assert torch.allclose(found, x)


def test_without_a_prior_it_is_training_mode_and_with_a_large_one_the_model_itself() -> None:
    module, x = net(), images(11)
    assert torch.allclose(BNAdaptation(prior=0).wrap(module)(x), copy.deepcopy(module).train()(x))
    assert torch.allclose(BNAdaptation(prior=1e12).wrap(module)(x), module(x))
    given = x.requires_grad_()
    (wanted,) = torch.autograd.grad(copy.deepcopy(module).train()(given)[:, 1].sum(), given)
    (found,) = torch.autograd.grad(BNAdaptation(prior=0).wrap(module)(given)[:, 1].sum(), given)
    assert torch.allclose(found, wanted), "gradients pass through the statistics"


def test_nothing_is_kept_from_batch_to_batch_even_in_train_mode() -> None:
    wrapped = BNAdaptation().wrap(net())
    first = wrapped(images(8))
    wrapped(images(8, 1) * 3)
    assert torch.equal(wrapped(images(8)), first)
    wrapped.train()
    wrapped(images(8, 1) * 3)
    assert torch.equal(wrapped.eval()(images(8)), first)


@pytest.mark.parametrize("steps", [1, 3])
def test_tent_is_the_plain_loop_with_torchs_adam(steps: int) -> None:
    """Train mode, batch statistics, entropy, Adam on the batch norms' parameters; the answer is that before the update."""
    wrapped, plain = Tent(lr=0.05, steps=steps).wrap(net()), net().train()
    plain.requires_grad_(False)
    learnt = [part.requires_grad_() for layer in (plain[1], plain[5]) for part in layer.parameters()]
    adam = torch.optim.Adam(learnt, lr=0.05)
    answers = []
    for seed in range(5):
        for _ in range(steps):
            logits = plain(images(9, seed))
            chances = logits.softmax(1)
            loss = -(chances * chances.log()).sum(1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            answers.append(wrapped(images(9, seed)))
        assert torch.allclose(answers[-1], logits.detach())
    assert not torch.allclose(answers[0], Tent(lr=0.05, steps=steps).wrap(net())(images(9, 4)))


def test_tent_lowers_the_entropy_of_what_it_sees() -> None:
    def entropy(logits: Tensor) -> float:
        return float(torch.distributions.Categorical(logits=logits.detach()).entropy().mean())

    wrapped = Tent(lr=0.1).wrap(net())
    seen = [entropy(wrapped(images(32))) for _ in range(20)]
    assert seen[-1] < 0.8 * seen[0]


def test_a_gradient_can_be_taken_through_an_answer_after_the_update() -> None:
    module = net()
    wrapped, x = Tent(lr=0.1).wrap(module), images(6).requires_grad_()
    logits = wrapped(x)
    wrapped(images(6, 1))
    (found,) = torch.autograd.grad(logits[:, 2].sum(), x)
    (wanted,) = torch.autograd.grad(copy.deepcopy(module).train()(x)[:, 2].sum(), x)
    assert torch.allclose(found, wanted)


def test_an_empty_batch_teaches_nothing() -> None:
    wrapped, other = Tent().wrap(net()[:4]), Tent().wrap(net()[:4])
    assert wrapped(images(0)).shape == (0, 216)
    assert torch.equal(wrapped(images(5)), other(images(5)))


def test_a_batch_norm_that_takes_no_part_is_left_alone() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = net(), nn.BatchNorm2d(3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    wrapped = Tent().wrap(Spare())
    assert all(bool(torch.isfinite(wrapped(images(5))).all()) for _ in range(3))


@pytest.mark.parametrize("defence", [BNAdaptation(), Tent()])
def test_models_that_it_cannot_adapt_are_refused(defence: BNAdaptation | Tent) -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    for module in (SmallCNN(), bare, lambda x: x):
        with pytest.raises(BadModel, match="no batch norm that keeps statistics"):
            defence.wrap(module)
        with pytest.raises(BadModel, match="no batch norm"):
            defence.openings(module)

    class Closed(nn.BatchNorm2d):
        def __deepcopy__(self, memo: dict) -> nn.Module:
            raise RuntimeError("mine alone")

    with pytest.raises(BadModel, match=r"cannot be copied(.|\n)*mine alone"):
        defence.wrap(nn.Sequential(Closed(3)))


def test_tent_needs_scales_or_shifts() -> None:
    with pytest.raises(BadModel, match=r"neither scales nor shifts(.|\n)*bn_adaptation"):
        Tent().wrap(net(affine=False))


def test_a_defended_module_has_another_fingerprint() -> None:
    module = net()
    wrapped = [module, *(each.wrap(module) for each in (BNAdaptation(), BNAdaptation(prior=1), Tent(), Tent(lr=0.1)))]
    assert len({fingerprint(each) for each in wrapped}) == 5
    assert "BNAdaptation(prior=1)" in repr(wrapped[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BNAdaptation(prior=-1), "prior is -1"),
        (lambda: BNAdaptation(prior=float("nan")), "prior is nan"),
        (lambda: Tent(lr=0), "lr is 0"),
        (lambda: Tent(steps=0), "steps is 0"),
    ],
)
def test_settings_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        make()
